//! The `main` of a daemon: a constant and one call.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{LitStr, ReturnType, Signature, Type};

use crate::check::Daemon;
use crate::signature::Main;
use crate::values::Setting;

pub(crate) fn expand(daemon: &Daemon, main: &Main) -> TokenStream {
    let Main { attrs, vis, sig, body } = main;
    let private = daemon.private(Span::call_site());
    let spec = spec(daemon, main, &private);
    let sig = expanded(sig);

    // The runtime's bounds on the return type are reported at the type.
    let at = expansion_at(result_span(&sig));
    let name = Ident::new(&sig.ident.to_string(), at);
    let program = program(daemon, main, &private);
    let function = function(main, &sig, &name, program.is_some());
    let run = match (main.is_async(), program.is_some()) {
        (true, false) => "run_async",
        (false, false) => "run_sync",
        (true, true) => "run_async_with",
        (false, true) => "run_sync_with",
    };
    let run = Ident::new(run, at);
    let program = program.map(|program| quote!(#program,));
    let called = daemon.private(at);
    let call = quote_spanned!(at=> #called::#run(&SPEC, #program #function));

    // The constant is in a block of its own, where it cannot clash with a name of the body.
    let outer = &main.sig.ident;
    quote! {
        #(#attrs)*
        #vis fn #outer() -> ::std::process::ExitCode {
            #sig #body
            {
                const SPEC: #private::Spec = #spec;
                #call
            }
        }
    }
}

/// The function that the runtime calls: with the daemon, and with the command line if there is a program.
fn function(main: &Main, sig: &Signature, name: &Ident, has_program: bool) -> TokenStream {
    let (daemon, unit) = (main.takes_daemon(), main.command_line().is_none());
    let params = match (daemon, has_program, unit) {
        (true, false, _) | (true, true, false) => return quote!(#name),
        (true, true, true) => quote!(|daemon, ()|),
        (false, true, _) => quote!(|_, ()|),
        (false, false, _) => quote!(|_|),
    };
    let args = daemon.then(|| quote!(daemon));
    match &sig.output {
        // Without its return type, a closure that never returns is inferred to return `()`.
        ReturnType::Type(arrow, ty) if !main.is_async() && matches!(**ty, Type::Never(_)) => {
            quote!(#params #arrow #ty { #name(#args) })
        }
        _ => quote!(#params #name(#args)),
    }
}

/// The program's command line and functions, if it has any.
fn program(daemon: &Daemon, main: &Main, private: &TokenStream) -> Option<TokenStream> {
    let Daemon { configure, one_shot, .. } = daemon;
    let command_line = main.command_line();
    if command_line.is_none() && configure.is_none() && one_shot.is_none() {
        return None;
    }
    let begin = match command_line {
        Some(ty) => {
            let at = expansion_at(ty.to_token_stream().span());
            let private = daemon.private(at);
            quote_spanned!(at=> #private::Program::<#ty>::with_command_line())
        }
        None => quote!(#private::Program::plain()),
    };
    let first = command_line.map(|_| quote!(args,));
    let configure = configure.as_ref().map(|path| {
        quote_spanned! {expansion_at(path.span())=>
            .configure(|args, overrides| {
                let _ = args;
                #private::ConfigureResult::into_result(#path(#first overrides))
            })
        }
    });
    let one_shot = one_shot.as_ref().map(|path| {
        quote_spanned! {expansion_at(path.span())=>
            .one_shot(|args, context| {
                let _ = args;
                ::core::option::Option::map(
                    #path(#first context),
                    ::std::process::Termination::report,
                )
            })
        }
    });
    Some(quote!(#begin #configure #one_shot))
}

fn spec(daemon: &Daemon, main: &Main, private: &TokenStream) -> TokenStream {
    let takes_daemon = main.takes_daemon();
    let graceful_restart = daemon.graceful_restart;
    let keys = daemon.keys.iter().map(|(path, setting)| {
        let literal = match setting {
            Setting::Str(text, span) => {
                let text = LitStr::new(text, *span);
                quote!(Str(#text))
            }
            Setting::Int(number) => quote!(Int(#number)),
            Setting::Bool(value) => quote!(Bool(#value)),
            Setting::List(items) => quote!(List(&[#(#items),*])),
        };
        quote!((&[#(#path),*], #private::Literal::#literal))
    });
    let flavor = if daemon.current_thread { quote!(CurrentThread) } else { quote!(MultiThread) };
    let worker_threads = match daemon.worker_threads.map(|count| count as usize) {
        Some(count) => quote!(::core::option::Option::Some(#count)),
        None => quote!(::core::option::Option::None),
    };
    quote! {
        #private::Spec {
            bin: ::core::option_env!("CARGO_BIN_NAME"),
            version: ::core::option_env!("CARGO_PKG_VERSION"),
            location: ::core::concat!(::core::file!(), ":", ::core::line!()),
            keys: &[#(#keys),*],
            graceful_restart: #graceful_restart,
            takes_daemon: #takes_daemon,
            flavor: #private::Flavor::#flavor,
            worker_threads: #worker_threads,
        }
    }
}

/// The signature as written, with its first and last tokens marked as generated: lints about the way
/// the function is written do not apply to it.
fn expanded(sig: &Signature) -> Signature {
    let mut sig = sig.clone();
    if let Some(asyncness) = &mut sig.asyncness {
        asyncness.span = expansion_at(asyncness.span);
    }
    sig.fn_token.span = expansion_at(sig.fn_token.span);
    sig.ident.set_span(expansion_at(sig.ident.span()));
    sig
}

fn expansion_at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

fn result_span(sig: &Signature) -> Span {
    match &sig.output {
        ReturnType::Default => sig.ident.span(),
        ReturnType::Type(_, ty) => ty.to_token_stream().span(),
    }
}
