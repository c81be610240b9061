//! What a broken attribute leaves: its mistakes, and a `main` that gives no others.
//!
//! The function stays inside that `main`, so that its imports are used, an editor completes in it
//! and the compiler finds the mistakes of the body as well.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::Error;

use crate::check::Daemon;
use crate::signature::{Main, argument_mistake, is_other_main};

/// The mistakes beside what is not a function: `item`.
pub(crate) fn keep(item: TokenStream, daemon: &Daemon, mistakes: &[Error]) -> TokenStream {
    let mistakes = mistakes.iter().map(Error::to_compile_error);
    let main = other_main(daemon);
    quote! {
        #(#mistakes)*
        #item
        #main
    }
}

pub(crate) fn fallback(main: &Main, daemon: &Daemon, mistakes: &[Error]) -> TokenStream {
    let Main { vis, sig, .. } = main;
    let attrs: Vec<_> = main.attrs.iter().filter(|attr| !is_other_main(attr)).collect();
    let mistakes = mistakes.iter().map(Error::to_compile_error);

    if main.has_receiver() {
        // Without `self` the body would speak of what is not there.
        let name = &sig.ident;
        return quote! {
            #(#mistakes)*
            #(#attrs)*
            #vis fn #name() {}
        };
    }
    let function = function(main);
    if sig.ident != "main" {
        let main = other_main(daemon);
        return quote! {
            #(#mistakes)*
            #(#attrs)*
            #vis #function
            #main
        };
    }
    quote! {
        #(#mistakes)*
        #(#attrs)*
        #vis fn main() {
            #function
        }
    }
}

/// The function with what a function cannot have taken away.
fn function(main: &Main) -> TokenStream {
    let mut sig = main.sig.clone();
    sig.constness = None;
    sig.abi = None;
    let body = match &main.body {
        // Without its last argument the body would speak of what is not there.
        Some(body) if sig.variadic.is_none() => quote!(#body),
        _ => quote!({ loop {} }),
    };
    sig.variadic = None;
    let Some(argument) = main.wrong_argument() else {
        return quote!(#sig #body);
    };

    // The mistake is the argument's value: whatever is done with it has a type then. What was
    // written as its type is used, by a function that is not.
    let mistake = argument_mistake(argument).to_compile_error();
    let (pat, ty) = (&argument.pat, &argument.ty);
    let (params, _, clause) = sig.generics.split_for_impl();
    let given = quote!({ fn given #params (_: #ty) #clause {} });
    sig.inputs.clear();
    quote! {
        #sig {
            #given
            let #pat = #mistake;
            #body
        }
    }
}

/// A `main` for a crate that has no other: what is imported by `*` gives way to what is written.
fn other_main(daemon: &Daemon) -> TokenStream {
    let private = daemon.private(Span::call_site());
    quote!(pub use #private::fallback::*;)
}
