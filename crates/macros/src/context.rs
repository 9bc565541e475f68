//! What the statements of one function share while they are rewritten.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Expr, Macro, Path, Type};

/// One function on its way.
pub(crate) struct Context {
    /// What it returns; `None` where that type cannot be written again, as `impl Trait`.
    pub(crate) output: Option<Type>,
    /// Errors of plain cleanups are kept for the result.
    pub(crate) keeps_errors: bool,
    pub(crate) is_async: bool,
    /// Cleanups may run on another thread.
    pub(crate) sends: bool,
    pub(crate) recorded: bool,
    /// The statements are inside of a boundary of this function.
    pub(crate) bounded: bool,
    /// The stack of async cleanups has been declared.
    pub(crate) has_async_stack: bool,
    /// How our macros were named: what imported them is used.
    named: Vec<Path>,
    next: u64,
}

impl Context {
    pub(crate) fn new(
        output: Option<Type>,
        keeps_errors: bool,
        is_async: bool,
        sends: bool,
        recorded: bool,
    ) -> Context {
        Context {
            output,
            keeps_errors,
            is_async,
            sends,
            recorded,
            bounded: false,
            has_async_stack: false,
            named: Vec::new(),
            next: 0,
        }
    }

    /// A name that no user can see or write, but for the compiler's messages.
    pub(crate) fn fresh(&mut self, what: &str) -> Ident {
        self.next += 1;
        format_ident!("__{what}_{}", self.next, span = Span::mixed_site())
    }

    /// The type of a guard.
    pub(crate) fn guard(&self) -> TokenStream {
        if self.bounded { quote!(::epilogue::__private::LateDefer) } else { quote!(::epilogue::Defer) }
    }

    /// What makes a pile.
    pub(crate) fn pile(&self) -> TokenStream {
        let kind = if self.sends { quote!(SendPile) } else { quote!(Pile) };
        if self.bounded { quote!(::epilogue::#kind::late()) } else { quote!(::epilogue::#kind::new()) }
    }

    pub(crate) fn number(&self) -> u64 {
        self.next
    }

    /// `-> Type`, where the type can be written.
    pub(crate) fn returns(&self) -> TokenStream {
        self.output.as_ref().map(|output| quote!(-> #output)).unwrap_or_default()
    }

    /// Remembers how a macro of ours was named.
    pub(crate) fn names(&mut self, mac: &Macro) {
        let same = |path: &Path| path.to_token_stream().to_string() == mac.path.to_token_stream().to_string();
        if !self.named.iter().any(same) {
            self.named.push(mac.path.clone());
        }
    }

    /// Calls of the macros that do nothing, so that their imports are used.
    pub(crate) fn mentions(&self) -> TokenStream {
        let named = &self.named;
        quote!(#(#named!(@mentioned);)*)
    }

    /// A closure without parameters around a plain cleanup.
    pub(crate) fn closure(&self, span: Span, moves: bool, body: &TokenStream) -> TokenStream {
        let place = place(span);
        let moves = moves.then(|| quote_spanned!(span=> move));
        let body = expression(body, span);
        if self.keeps_errors {
            let errors = errors();
            // Named again as a reference, which a `move` closure may take.
            return quote_spanned! {span=> {
                let #errors = &#errors;
                #moves || #errors.keep(::epilogue::__private::call_once(|| #body), #place)
            }};
        }
        quote_spanned!(span=> #moves || ::epilogue::__private::keep(::epilogue::__private::call_once(|| #body), #place))
    }
}

/// `file:line` of what stands at `span`.
pub(crate) fn place(span: Span) -> TokenStream {
    quote_spanned!(span=> ::core::concat!(::core::file!(), ":", ::core::line!()))
}

pub(crate) fn errors() -> Ident {
    Ident::new("__errors", Span::mixed_site())
}

pub(crate) fn live() -> Ident {
    Ident::new("__live", Span::mixed_site())
}

pub(crate) fn async_stack() -> Ident {
    Ident::new("__async_cleanups", Span::mixed_site())
}

pub(crate) fn end() -> Ident {
    Ident::new("__end", Span::mixed_site())
}

/// The body as one expression. Braces only where they are needed: the user would be told that they
/// are superfluous, or, if they were not the user's, where the macro is and not where the mistake is.
pub(crate) fn expression(body: &TokenStream, span: Span) -> TokenStream {
    match syn::parse2::<Expr>(body.clone()) {
        Ok(_) => body.clone(),
        Err(_) => braced(body, span),
    }
}

/// `{ body }`.
pub(crate) fn braced(body: &TokenStream, span: Span) -> TokenStream {
    let mut tokens = body.clone().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Group(group)), None) if group.delimiter() == Delimiter::Brace => body.clone(),
        _ => quote_spanned!(span=> { #body }),
    }
}
