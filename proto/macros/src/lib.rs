//! `#[wire]` and `#[message]`: the two attributes that let a type travel between Rondel nodes.
//!
//! Both add rkyv's derives (through the re-export in `rondel_proto`, so that user crates need no rkyv of their
//! own) and a schema hash over the definition and the hashes of its field types.

use proc_macro::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    Fields, Item, LitInt, Path, Result, Token, Type,
    parse::{Parse, ParseStream},
    parse_macro_input,
};

/// Lets a struct or an enum travel between nodes and rest on disk. Every field must itself be a wire type.
#[proc_macro_attribute]
pub fn wire(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let crate_path = parse_macro_input!(attribute as WireArgs).krate;
    let item = parse_macro_input!(item as Item);
    expand_wire(&crate_path, &item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a wire type a request with a number: `#[message(id = 1, reply = T)]`, with `write` if it changes its key.
///
/// The number belongs to the service and is kept for ever; a changed message is a new message with a new number.
#[proc_macro_attribute]
pub fn message(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let args = parse_macro_input!(attribute as MessageArgs);
    let item = parse_macro_input!(item as Item);
    expand_message(&args, &item).unwrap_or_else(syn::Error::into_compile_error).into()
}

struct WireArgs {
    krate: Path,
}

impl Parse for WireArgs {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Ok(Self { krate: default_crate() });
        }
        input.parse::<Token![crate]>()?;
        input.parse::<Token![=]>()?;
        Ok(Self { krate: input.call(Path::parse_mod_style)? })
    }
}

struct MessageArgs {
    id: LitInt,
    reply: Type,
    write: bool,
    krate: Path,
}

impl Parse for MessageArgs {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut id, mut reply, mut write, mut krate) = (None, None, false, default_crate());
        while !input.is_empty() {
            if input.peek(Token![crate]) {
                input.parse::<Token![crate]>()?;
                input.parse::<Token![=]>()?;
                krate = input.call(Path::parse_mod_style)?;
            } else {
                let name: syn::Ident = input.parse()?;
                match name.to_string().as_str() {
                    "id" => {
                        input.parse::<Token![=]>()?;
                        id = Some(input.parse::<LitInt>()?);
                    }
                    "reply" => {
                        input.parse::<Token![=]>()?;
                        reply = Some(input.parse::<Type>()?);
                    }
                    "write" => write = true,
                    other => {
                        let text =
                            format!("unknown option `{other}`: expected `id`, `reply`, `write` or `crate`");
                        return Err(syn::Error::new(name.span(), text));
                    }
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let id = id.ok_or_else(|| {
            input.error(
                "#[message] needs `id = <number>`: the number that this message keeps on the wire for ever",
            )
        })?;
        if id.base10_parse::<u16>().is_ok_and(|id| id >= 0xFF00) {
            return Err(syn::Error::new(id.span(), "message ids from 0xFF00 on belong to rondel-core"));
        }
        Ok(Self { id, reply: reply.unwrap_or_else(|| syn::parse_quote!(())), write, krate })
    }
}

fn default_crate() -> Path {
    syn::parse_quote!(::rondel_core::proto)
}

fn expand_message(args: &MessageArgs, item: &Item) -> Result<proc_macro2::TokenStream> {
    let wire = expand_wire(&args.krate, item)?;
    let (krate, id, reply, write) = (&args.krate, &args.id, &args.reply, args.write);
    let ident = ident_of(item)?;
    let name = ident.to_string();
    Ok(quote! {
        #wire
        impl #krate::Message for #ident {
            const ID: u16 = #id;
            const NAME: &'static str = #name;
            const WRITE: bool = #write;
            type Reply = #reply;
        }
    })
}

fn expand_wire(krate: &Path, item: &Item) -> Result<proc_macro2::TokenStream> {
    let ident = ident_of(item)?;
    if let Some(parameter) = generics_of(item).params.first() {
        return Err(syn::Error::new_spanned(parameter, "wire types are concrete: no generic parameters"));
    }
    let mut bare = item.clone();
    strip_attributes(&mut bare);
    let shape = bare.to_token_stream().to_string();
    let fields = field_types(item);
    let rkyv = format!("{}::rkyv", krate.to_token_stream()).replace(' ', "");
    let rkyv: Path = syn::parse_str(&rkyv)?;
    Ok(quote! {
        #[derive(#krate::rkyv::Archive, #krate::rkyv::Serialize, #krate::rkyv::Deserialize, Debug, Clone)]
        #[rkyv(crate = #rkyv, derive(Debug))]
        #item
        impl #krate::Schema for #ident {
            const HASH: u64 = {
                let mut hash = #krate::schema::hash_str(#shape);
                #( hash = #krate::schema::mix(hash, <#fields as #krate::Schema>::HASH); )*
                hash
            };
        }
    })
}

fn ident_of(item: &Item) -> Result<&syn::Ident> {
    match item {
        Item::Struct(item) => Ok(&item.ident),
        Item::Enum(item) => Ok(&item.ident),
        other => Err(syn::Error::new_spanned(other, "this attribute goes on a struct or an enum")),
    }
}

fn generics_of(item: &Item) -> &syn::Generics {
    match item {
        Item::Struct(item) => &item.generics,
        Item::Enum(item) => &item.generics,
        _ => unreachable!("ident_of has refused everything else"),
    }
}

fn field_types(item: &Item) -> Vec<Type> {
    let of = |fields: &Fields| fields.iter().map(|field| field.ty.clone()).collect::<Vec<_>>();
    match item {
        Item::Struct(item) => of(&item.fields),
        Item::Enum(item) => item.variants.iter().flat_map(|variant| of(&variant.fields)).collect(),
        _ => Vec::new(),
    }
}

/// The schema is the shape alone: neither docs nor derives nor visibility change it.
fn strip_attributes(item: &mut Item) {
    let bare = |fields: &mut Fields| {
        for field in fields.iter_mut() {
            field.attrs.clear();
            field.vis = syn::Visibility::Inherited;
        }
    };
    match item {
        Item::Struct(item) => {
            item.attrs.clear();
            item.vis = syn::Visibility::Inherited;
            bare(&mut item.fields);
        }
        Item::Enum(item) => {
            item.attrs.clear();
            item.vis = syn::Visibility::Inherited;
            for variant in &mut item.variants {
                variant.attrs.clear();
                bare(&mut variant.fields);
            }
        }
        _ => {}
    }
}
