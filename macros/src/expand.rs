//! A daemon's `main`: a constant and one call.

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
    let name = Ident::new("main", at);
    let function = match &sig.output {
        _ if main.takes_daemon() => quote!(#name),
        // Without its return type, a closure that never returns is inferred to return `()`.
        ReturnType::Type(arrow, ty) if !main.is_async() && matches!(**ty, Type::Never(_)) => {
            quote!(|_| #arrow #ty { #name() })
        }
        _ => quote!(|_| #name()),
    };

    let run = Ident::new(if main.is_async() { "run_async" } else { "run_sync" }, at);
    let called = daemon.private(at);
    let call = quote_spanned!(at=> #called::#run(&SPEC, #function));

    // The constant is in a block of its own, where it cannot clash with a name of the body.
    quote! {
        #(#attrs)*
        #vis fn main() -> ::std::process::ExitCode {
            #sig #body
            {
                const SPEC: #private::Spec = #spec;
                #call
            }
        }
    }
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
