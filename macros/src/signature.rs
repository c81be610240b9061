//! The annotated function. Its body is never parsed.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Error, FnArg, Safety, Signature, Type, Visibility};

pub(crate) struct Main {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    /// The braces and their content; none after `fn main();`.
    pub(crate) body: Option<TokenTree>,
}

impl Main {
    pub(crate) fn parse(item: TokenStream) -> syn::Result<Main> {
        let read = |input: ParseStream<'_>| {
            let attrs = input.call(Attribute::parse_outer)?;
            let vis = input.parse()?;
            let message =
                "`#[daemon]` must be applied to a function such as `fn main`: move it there";
            let start = input.span();
            let sig = input.parse().map_err(|_| Error::new(start, message))?;
            let body: TokenStream = input.parse()?;
            let body = body.into_iter().find(|token| matches!(token, TokenTree::Group(_)));
            Ok(Main { attrs, vis, sig, body })
        };
        read.parse2(item)
    }

    pub(crate) fn is_async(&self) -> bool {
        self.sig.asyncness.is_some()
    }

    pub(crate) fn takes_daemon(&self) -> bool {
        !self.sig.inputs.is_empty()
    }

    /// The argument, if its type is not `Daemon`.
    pub(crate) fn wrong_argument(&self) -> Option<&syn::PatType> {
        match self.sig.inputs.first() {
            Some(FnArg::Typed(argument)) if self.sig.inputs.len() <= 2 => {
                (!is_daemon(&argument.ty)).then_some(argument)
            }
            _ => None,
        }
    }

    /// The type of the second argument: the program's command line.
    pub(crate) fn command_line(&self) -> Option<&Type> {
        match self.sig.inputs.iter().nth(1) {
            Some(FnArg::Typed(argument)) => Some(&argument.ty),
            _ => None,
        }
    }

    pub(crate) fn has_receiver(&self) -> bool {
        self.sig.receiver().is_some()
    }
}

/// Whether an attribute expands to a `main` of its own, as `#[tokio::main]` does.
pub(crate) fn is_other_main(attr: &Attribute) -> bool {
    attr.path().segments.last().is_some_and(|segment| segment.ident == "main")
}

/// Reports everything that keeps the function from being a daemon's `main`, except for
/// [`Main::wrong_argument`].
pub(crate) fn check(main: &Main, mistakes: &mut Vec<Error>) {
    let sync_body = main.body.iter().filter(|_| !main.is_async());
    if is_wrapped(sync_body.cloned().collect()) {
        let message = "another attribute has started a runtime for this `main`: remove it, \
                       `#[daemon]` starts the runtime";
        mistakes.push(Error::new(Span::call_site(), message));
    }
    let mut mistake = |at: &dyn ToTokens, message: String| {
        mistakes.push(Error::new_spanned(at, message));
    };
    let sig = &main.sig;

    for attr in main.attrs.iter().filter(|attr| is_other_main(attr)) {
        let path = path_text(attr);
        let message = format!(
            "`#[{path}]` cannot be combined with `#[daemon]`, which starts the runtime: remove it"
        );
        mistake(attr, message);
    }
    if let Some(token) = &sig.constness {
        mistake(token, "`main` cannot be `const`: remove `const`".into());
    }
    if let Safety::Unsafe(token) = &sig.safety {
        let message = "`main` cannot be `unsafe`: remove it, and use `unsafe` blocks inside";
        mistake(token, message.into());
    }
    if let Some(abi) = &sig.abi {
        let message = "`main` cannot have an explicit ABI: remove `extern`";
        mistake(abi, message.into());
    }
    if !sig.generics.params.is_empty() {
        mistake(&sig.generics, "`main` cannot be generic: remove the parameters".into());
    }
    if let Some(clause) = &sig.generics.where_clause {
        mistake(clause, "`main` cannot have a `where` clause: remove it".into());
    }
    if let Some(variadic) = &sig.variadic {
        mistake(&variadic.dots, "`main` cannot be variadic: remove `...`".into());
    }
    if let Some(receiver) = sig.receiver() {
        let message = "`main` is not a method: write `daemon: Daemon` in place of `self`";
        mistake(receiver, message.into());
    } else if sig.inputs.len() > 2 {
        let message =
            "`main` takes two arguments at most: keep `daemon: Daemon` and the command line";
        mistake(&sig.inputs, message.into());
    }
    if main.body.is_none() {
        mistake(sig, "`main` has no body: write one in braces".into());
    }
}

/// The error for the type of [`Main::wrong_argument`].
pub(crate) fn argument_mistake(argument: &syn::PatType) -> Error {
    let message = match unwrap(&argument.ty) {
        Type::Reference(reference) if is_daemon(&reference.elem) => {
            "`main` takes the `Daemon` itself: remove the `&`"
        }
        _ => "the argument of `main` must be a `Daemon`, by that name: write `daemon: Daemon`",
    };
    Error::new_spanned(&argument.ty, message)
}

fn is_daemon(ty: &Type) -> bool {
    let Type::Path(path) = unwrap(ty) else {
        return false;
    };
    let last = path.path.segments.last();
    path.qself.is_none()
        && last.is_some_and(|last| last.ident == "Daemon" && last.arguments.is_none())
}

/// Strips parentheses and the invisible groups of `macro_rules!`.
fn unwrap(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            _ => return ty,
        };
    }
}

fn path_text(attr: &Attribute) -> String {
    attr.path().to_token_stream().to_string().replace(' ', "")
}

/// Whether an attribute above ours, such as `#[tokio::main]`, has already wrapped the body.
///
/// Its `block_on` differs from one in the program by the source text of its span, which is `block_on`
/// only for the latter.
fn is_wrapped(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => is_wrapped(group.stream()),
        TokenTree::Ident(ident) if ident == "block_on" => {
            ident.span().source_text().is_some_and(|source| source != "block_on")
        }
        _ => false,
    })
}
