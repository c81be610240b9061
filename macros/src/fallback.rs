//! The expansion of a broken attribute: its errors, and a `main` that causes no further ones.
//!
//! That `main` contains the function: its imports are used, an editor completes in it, and the
//! compiler reports the errors of the body as well.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::Error;

use crate::check::Daemon;
use crate::signature::{Main, argument_mistake, is_other_main};

/// The errors, and an `item` that is not a function.
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
        // The body may use `self`.
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

/// The function, without the qualifiers that a nested function cannot have.
fn function(main: &Main) -> TokenStream {
    let mut sig = main.sig.clone();
    sig.constness = None;
    sig.abi = None;
    let body = match &main.body {
        // The body may use the variadic argument.
        Some(body) if sig.variadic.is_none() => quote!(#body),
        _ => quote!({ loop {} }),
    };
    sig.variadic = None;
    let Some(argument) = main.wrong_argument() else {
        return quote!(#sig #body);
    };

    // The error is the argument's value, and so has any type that the body needs. The written type
    // is used by a function that is never called.
    let mistake = argument_mistake(argument).to_compile_error();
    let (pat, ty) = (&argument.pat, &argument.ty);
    let (params, _, clause) = sig.generics.split_for_impl();
    let given = quote!({ fn given #params (_: #ty) #clause {} });
    sig.inputs = std::mem::take(&mut sig.inputs).into_iter().skip(1).collect();
    quote! {
        #sig {
            #given
            let #pat = #mistake;
            #body
        }
    }
}

/// A `main` for a crate that has no other: a glob import yields to an item of the same name.
fn other_main(daemon: &Daemon) -> TokenStream {
    let private = daemon.private(Span::call_site());
    quote!(pub use #private::fallback::*;)
}
