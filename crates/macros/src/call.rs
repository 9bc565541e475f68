//! One call of `defer!`, `defer_err!`, `defer_ok!` or `keep!`, as it was written.

use proc_macro2::{Delimiter, Ident, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, ExprClosure, Macro, ReturnType, Token};

/// Which endings a cleanup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Err,
    Ok,
}

/// A call, taken apart.
pub(crate) enum Call {
    /// Runs whatever the ending.
    Plain { moves: bool, body: TokenStream },
    /// Is given the ending.
    Aware { closure: Box<ExprClosure> },
    /// Runs on some endings only.
    Sometimes { when: When, moves: bool, body: TokenStream },
    /// Is a future; `how` is the name it gives the ending.
    Async { when: When, how: Option<TokenStream>, body: TokenStream },
    /// Keeps a value usable until its cleanup.
    Keep { value: Box<Expr>, cleanup: Box<Expr> },
}

/// A call with where it stands.
pub(crate) struct Placed {
    pub(crate) call: Call,
    pub(crate) span: Span,
    /// What stood before it: `#[cfg(…)]`, `#[allow(…)]`.
    pub(crate) attributes: Vec<Attribute>,
}

impl Placed {
    /// Reads a macro call; `None` when it is not one of ours.
    pub(crate) fn read(mac: &Macro, attributes: &[Attribute]) -> syn::Result<Option<Placed>> {
        let Some(name) = ours(mac) else { return Ok(None) };
        let span = mac.path.span().join(mac.delimiter.span().close()).unwrap_or_else(|| mac.path.span());
        if mac.tokens.is_empty() {
            return Err(Error::new(span, format!("`{name}!` without a cleanup: `{name}!(file.close())`")));
        }
        let call = match name.as_str() {
            "keep" => keep.parse2(mac.tokens.clone()).map_err(|error| {
                let shown = "`keep!(path, |path| fs::remove_file(path))`";
                Error::new(span, format!("`keep!` takes a value and its cleanup, as in {shown}: {error}"))
            })?,
            "defer_err" => cleanup(When::Err).parse2(mac.tokens.clone())?,
            "defer_ok" => cleanup(When::Ok).parse2(mac.tokens.clone())?,
            _ => cleanup(When::Always).parse2(mac.tokens.clone())?,
        };
        Ok(Some(Placed { call, span, attributes: attributes.to_vec() }))
    }

    /// Code with the attributes of the call. A statement or a block: expressions may not have all of
    /// them.
    pub(crate) fn with_attributes(&self, code: TokenStream) -> TokenStream {
        let attributes = &self.attributes;
        quote!(#(#attributes)* #code)
    }

    /// Whether it cannot be a guard in its place.
    pub(crate) fn looks_at_the_ending(&self) -> bool {
        matches!(self.call, Call::Aware { .. } | Call::Sometimes { .. })
    }

    pub(crate) fn is_async(&self) -> bool {
        matches!(self.call, Call::Async { .. })
    }
}

/// The name of a macro of ours, however it is reached.
pub(crate) fn ours(mac: &Macro) -> Option<String> {
    let segments = &mac.path.segments;
    let name = segments.last()?.ident.to_string();
    // `scopeguard::defer!` is somebody else's.
    let ours = segments.len() == 1 || segments.first()?.ident.to_string().starts_with("epilogue");
    (ours && NAMES.contains(&name.as_str())).then_some(name)
}

/// The first call of ours among the tokens of a foreign macro, where it cannot be rewritten.
pub(crate) fn hidden_in(tokens: TokenStream) -> Option<Ident> {
    let mut named: Option<Ident> = None;
    let mut called = false;
    // The braces that come next belong to a closure or an `async` block: a function of its own.
    let mut own_body = false;
    for token in tokens {
        match token {
            TokenTree::Punct(punct) => {
                called = punct.as_char() == '!' && named.is_some() && punct.spacing() == Spacing::Alone;
                own_body = punct.as_char() == '|';
                if !called {
                    named = None;
                }
            }
            TokenTree::Ident(ident) => {
                own_body = ident == "async" || (own_body && ident == "move");
                named = NAMES.contains(&ident.to_string().as_str()).then_some(ident);
                called = false;
            }
            TokenTree::Group(group) => {
                if called {
                    return named;
                }
                if !(own_body && group.delimiter() == Delimiter::Brace)
                    && let Some(found) = hidden_in(group.stream())
                {
                    return Some(found);
                }
                (named, called, own_body) = (None, false, false);
            }
            TokenTree::Literal(_) => (named, called, own_body) = (None, false, false),
        }
    }
    None
}

const NAMES: [&str; 4] = ["defer", "defer_err", "defer_ok", "keep"];

fn keep(input: ParseStream<'_>) -> syn::Result<Call> {
    let value = input.parse()?;
    input.parse::<Token![,]>()?;
    let cleanup = input.parse()?;
    input.parse::<Option<Token![,]>>()?;
    Ok(Call::Keep { value, cleanup })
}

fn cleanup(when: When) -> impl FnOnce(ParseStream<'_>) -> syn::Result<Call> {
    move |input| {
        if input.peek(Token![async]) {
            return async_cleanup(when, input);
        }
        let starts_closure = input.peek(Token![|]) || input.peek(Token![move]) || input.peek(Token![||]);
        if !starts_closure {
            let body = rest(input)?;
            return Ok(plain(when, false, body));
        }
        let closure: ExprClosure = input.parse()?;
        if !input.is_empty() {
            return Err(input.error("nothing may follow the closure"));
        }
        let moves = closure.capture.is_some();
        match closure.inputs.len() {
            0 if matches!(closure.output, ReturnType::Type(..)) => {
                let span = closure.span();
                let body = quote_spanned!(span=> ::epilogue::__private::call_once(#closure));
                Ok(plain(when, moves, body))
            }
            0 => Ok(plain(when, moves, closure.body.to_token_stream())),
            1 if when == When::Always => Ok(Call::Aware { closure: Box::new(closure) }),
            1 => Err(Error::new(
                closure.inputs.span(),
                "it is known how the function ended; to look at the ending write `defer!(|end| …)`",
            )),
            _ => {
                Err(Error::new(closure.inputs.span(), "a cleanup is given one thing, the ending: `|end| …`"))
            }
        }
    }
}

fn plain(when: When, moves: bool, body: TokenStream) -> Call {
    match when {
        When::Always => Call::Plain { moves, body },
        when => Call::Sometimes { when, moves, body },
    }
}

/// `async { … }`, `async move { … }`, `async |how| …`, `async move |how| …`.
fn async_cleanup(when: When, input: ParseStream<'_>) -> syn::Result<Call> {
    input.parse::<Token![async]>()?;
    input.parse::<Option<Token![move]>>()?;
    let how = if input.peek(Token![||]) {
        input.parse::<Token![||]>()?;
        None
    } else if input.peek(Token![|]) {
        input.parse::<Token![|]>()?;
        let how = syn::Pat::parse_single(input)?;
        let kind = if input.peek(Token![:]) {
            let colon = input.parse::<Token![:]>()?;
            let kind = input.parse::<syn::Type>()?;
            quote!(#colon #kind)
        } else {
            TokenStream::new()
        };
        input.parse::<Token![|]>()?;
        Some(quote!(#how #kind))
    } else {
        None
    };
    let body = rest(input)?;
    Ok(Call::Async { when, how, body })
}

fn rest(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    struct All(TokenStream);
    impl Parse for All {
        fn parse(input: ParseStream<'_>) -> syn::Result<All> {
            TokenStream::parse(input).map(All)
        }
    }
    All::parse(input).map(|all| all.0)
}
