//! `ToJson` and `FromJson` for the messages and records of the runtime's processes.
//!
//! The derived code calls the runtime's own functions, which are generic in nothing but the types of
//! fields. Serde's is written out for each type, each format and each way of buffering, and was a third of
//! what every program had to compile.
//!
//! Attributes, as serde calls them: `tag`, `rename_all`, `default` and `other` of types and variants;
//! `default`, `with`, `flatten` and `skip_if` of fields.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Field, Fields, Ident, LitStr, Path, Result,
    Variant,
};

/// Which of the two is derived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    To,
    From,
}

/// The options in `#[json(…)]`.
#[derive(Default)]
struct Options {
    tag: Option<String>,
    rename_all: Option<LitStr>,
    /// `Some(None)`: that of the type.
    default: Option<Option<Path>>,
    with: Option<Path>,
    flatten: bool,
    skip_if: Option<Path>,
    other: bool,
}

impl Options {
    fn parse(attributes: &[Attribute]) -> Result<Options> {
        let mut options = Options::default();
        for attribute in attributes.iter().filter(|it| it.path().is_ident("json")) {
            attribute.parse_nested_meta(|meta| {
                let name = meta.path.require_ident()?.to_string();
                match name.as_str() {
                    "tag" => options.tag = Some(meta.value()?.parse::<LitStr>()?.value()),
                    "rename_all" => options.rename_all = Some(meta.value()?.parse()?),
                    "default" if meta.input.peek(syn::Token![=]) => {
                        options.default = Some(Some(meta.value()?.parse()?));
                    }
                    "default" => options.default = Some(None),
                    "with" => options.with = Some(meta.value()?.parse()?),
                    "flatten" => options.flatten = true,
                    "skip_if" => options.skip_if = Some(meta.value()?.parse()?),
                    "other" => options.other = true,
                    _ => return Err(meta.error("not an attribute of `json`")),
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

pub(crate) fn derive(input: &DeriveInput, direction: Direction) -> TokenStream {
    expand(input, direction).unwrap_or_else(Error::into_compile_error)
}

fn expand(input: &DeriveInput, direction: Direction) -> Result<TokenStream> {
    let options = Options::parse(&input.attrs)?;
    let name = &input.ident;
    match &input.data {
        Data::Struct(of) => match &of.fields {
            Fields::Named(_) => {
                let body = match direction {
                    Direction::To => {
                        let bindings = bindings(&of.fields);
                        let writes = write_fields(&of.fields)?;
                        quote!(let Self { #bindings } = self; #writes)
                    }
                    Direction::From => {
                        let reads = read_fields(&of.fields, options.default.is_some())?;
                        let default = options.default.is_some().then(
                            || quote!(let default = <Self as ::core::default::Default>::default();),
                        );
                        quote!(#default ::core::result::Result::Ok(Self { #reads }))
                    }
                };
                Ok(of_fields(name, direction, &body))
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Ok(match direction {
                Direction::To => to_json(name, &quote!(crate::json::ToJson::write(&self.0, out))),
                Direction::From => {
                    from_json(name, &quote!(crate::json::FromJson::read(value).map(Self)))
                }
            }),
            _ => Err(Error::new(name.span(), "fields have names, or there is one")),
        },
        Data::Enum(of) => match &options.tag {
            Some(tag) => tagged(name, of, tag, &options, direction),
            None => plain(name, of, &options, direction),
        },
        Data::Union(_) => Err(Error::new(name.span(), "a union has no JSON")),
    }
}

/// The two implementations of what is an object.
fn of_fields(name: &Ident, direction: Direction, body: &TokenStream) -> TokenStream {
    match direction {
        Direction::To => {
            let whole = to_json(name, &quote!(out.object(self)));
            quote! {
                #whole
                impl crate::json::ToFields for #name {
                    fn write_fields(&self, out: &mut crate::json::Writer) { #body }
                }
            }
        }
        Direction::From => {
            let read = quote! {
                let mut fields = crate::json::Fields::of(value)?;
                crate::json::FromFields::read_fields(&mut fields)
            };
            let whole = from_json(name, &read);
            quote! {
                #whole
                impl crate::json::FromFields for #name {
                    fn read_fields(
                        fields: &mut crate::json::Fields,
                    ) -> ::core::result::Result<Self, crate::json::Mistake> { #body }
                }
            }
        }
    }
}

fn to_json(name: &Ident, body: &TokenStream) -> TokenStream {
    quote! {
        impl crate::json::ToJson for #name {
            fn write(&self, out: &mut crate::json::Writer) { #body }
        }
    }
}

fn from_json(name: &Ident, body: &TokenStream) -> TokenStream {
    quote! {
        impl crate::json::FromJson for #name {
            fn read(
                value: ::serde_json::Value,
            ) -> ::core::result::Result<Self, crate::json::Mistake> { #body }
        }
    }
}

/// `name: __name, …`: no field can be named like what the derived code uses.
fn bindings(fields: &Fields) -> TokenStream {
    fields
        .iter()
        .filter_map(|field| field.ident.as_ref())
        .map(|name| {
            let bound = bound(name);
            quote!(#name: #bound,)
        })
        .collect()
}

fn bound(name: &Ident) -> Ident {
    format_ident!("__{}", name)
}

fn field_name(field: &Field) -> Result<(&Ident, String)> {
    let name = field
        .ident
        .as_ref()
        .ok_or_else(|| Error::new(Span::call_site(), "a field without a name"))?;
    Ok((name, name.to_string()))
}

fn write_fields(fields: &Fields) -> Result<TokenStream> {
    fields
        .iter()
        .map(|field| {
            let (name, key) = field_name(field)?;
            let options = Options::parse(&field.attrs)?;
            let bound = bound(name);
            let write = match &options {
                Options { flatten: true, .. } => {
                    quote!(crate::json::ToFields::write_fields(#bound, out);)
                }
                Options { with: Some(with), .. } => {
                    quote!(out.key(#key); #with::write(#bound, out);)
                }
                _ => quote!(out.field(#key, #bound);),
            };
            Ok(match &options.skip_if {
                Some(skip) => quote!(if !#skip(#bound) { #write }),
                None => write,
            })
        })
        .collect()
}

fn read_fields(fields: &Fields, type_has_default: bool) -> Result<TokenStream> {
    fields
        .iter()
        .map(|field| {
            let (name, key) = field_name(field)?;
            let options = Options::parse(&field.attrs)?;
            if options.flatten {
                return Ok(quote!(#name: crate::json::FromFields::read_fields(fields)?,));
            }
            let read = match &options.with {
                Some(with) => with.to_token_stream(),
                None => quote!(crate::json::FromJson),
            };
            let default = match options.default {
                Some(Some(path)) => quote!(#path()),
                Some(None) => quote!(::core::default::Default::default()),
                None if type_has_default => quote!(default.#name),
                None if options.with.is_some() => {
                    quote!(return ::core::result::Result::Err(crate::json::Mistake::missing(#key)))
                }
                None => return Ok(quote!(#name: fields.take(#key)?,)),
            };
            Ok(quote! {
                #name: match fields.optional(#key, #read::read)? {
                    ::core::option::Option::Some(value) => value,
                    ::core::option::Option::None => #default,
                },
            })
        })
        .collect()
}

/// An enum as an object with a field that names the variant.
fn tagged(
    name: &Ident,
    of: &DataEnum,
    tag: &str,
    options: &Options,
    direction: Direction,
) -> Result<TokenStream> {
    let mut arms = TokenStream::new();
    let mut other = None;
    for variant in &of.variants {
        let ident = &variant.ident;
        if !matches!(variant.fields, Fields::Named(_) | Fields::Unit) {
            return Err(Error::new(ident.span(), "the fields of a tagged variant have names"));
        }
        let word = word(variant, options)?;
        let bindings = bindings(&variant.fields);
        let arm = match direction {
            Direction::To => {
                let writes = write_fields(&variant.fields)?;
                quote!(Self::#ident { #bindings } => { out.text_field(#tag, #word); #writes })
            }
            Direction::From => {
                let reads = read_fields(&variant.fields, false)?;
                if Options::parse(&variant.attrs)?.other {
                    other = Some(quote!(::core::result::Result::Ok(Self::#ident { #reads })));
                    continue;
                }
                quote!(#word => ::core::result::Result::Ok(Self::#ident { #reads }),)
            }
        };
        arms.extend(arm);
    }
    let body = match direction {
        Direction::To => quote!(match self { #arms }),
        Direction::From => {
            let words = words(of, options)?;
            let other = other.unwrap_or_else(
                || quote!(::core::result::Result::Err(crate::json::Mistake::variant(word, &[#words]))),
            );
            quote! {
                let word: ::std::string::String = fields.take(#tag)?;
                match word.as_str() { #arms word => { let _ = word; #other } }
            }
        }
    };
    Ok(of_fields(name, direction, &body))
}

/// An enum as the name of its variant, or as an object of that name and the variant's one field.
fn plain(
    name: &Ident,
    of: &DataEnum,
    options: &Options,
    direction: Direction,
) -> Result<TokenStream> {
    let mut arms = TokenStream::new();
    for variant in &of.variants {
        let ident = &variant.ident;
        let word = word(variant, options)?;
        arms.extend(match (direction, &variant.fields) {
            (Direction::To, Fields::Unit) => quote!(Self::#ident => out.text(#word),),
            (Direction::From, Fields::Unit) => {
                quote!((#word, ::core::option::Option::None) => ::core::result::Result::Ok(Self::#ident),)
            }
            (Direction::To, Fields::Unnamed(fields)) if fields.unnamed.len() == 1 => {
                quote!(Self::#ident(of) => out.variant(#word, of),)
            }
            (Direction::From, Fields::Unnamed(fields)) if fields.unnamed.len() == 1 => quote! {
                (#word, ::core::option::Option::Some(of)) => crate::json::FromJson::read(of).map(Self::#ident),
            },
            _ => return Err(Error::new(ident.span(), "a variant has one field without a name, or none")),
        });
    }
    Ok(match direction {
        Direction::To => to_json(name, &quote!(match self { #arms })),
        Direction::From => {
            let words = words(of, options)?;
            let read = quote! {
                let (word, of) = crate::json::variant(value)?;
                match (word.as_str(), of) {
                    #arms
                    (word, _) => ::core::result::Result::Err(
                        crate::json::Mistake::variant(word, &[#words]),
                    ),
                }
            };
            from_json(name, &read)
        }
    })
}

fn words(of: &DataEnum, options: &Options) -> Result<TokenStream> {
    of.variants.iter().map(|variant| word(variant, options).map(|word| quote!(#word,))).collect()
}

/// The name of a variant in JSON.
fn word(variant: &Variant, options: &Options) -> Result<String> {
    let name = variant.ident.to_string();
    let Some(rule) = &options.rename_all else { return Ok(name) };
    match rule.value().as_str() {
        "lowercase" => Ok(name.to_lowercase()),
        "kebab-case" => {
            let mut word = String::new();
            for (index, letter) in name.char_indices() {
                if index > 0 && letter.is_uppercase() {
                    word.push('-');
                }
                word.extend(letter.to_lowercase());
            }
            Ok(word)
        }
        _ => Err(Error::new(rule.span(), "`lowercase` or `kebab-case`")),
    }
}
