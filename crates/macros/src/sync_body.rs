//! The statements of a `fn`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Stmt, Type};

use crate::call::{Call, Placed, When};
use crate::context::{self, Context, end, expression, place};
use crate::nested;

/// Rewrites the statements from here to the end of the function.
pub(crate) fn expand(context: &mut Context, statements: &[Stmt]) -> syn::Result<TokenStream> {
    let Some((first, rest)) = statements.split_first() else { return Ok(TokenStream::new()) };
    if let Stmt::Macro(mac) = first
        && let Some(placed) = Placed::read(&mac.mac, &mac.attrs)?
    {
        context.names(&mac.mac);
        if placed.is_async() {
            return Err(Error::new(placed.span, "an async cleanup needs an `async fn`"));
        }
        if placed.looks_at_the_ending() {
            let code = placed.with_attributes(inline(&placed));
            return split(context, &TokenStream::new(), rest, placed.span, code);
        }
        if matches!(placed.call, Call::Plain { .. }) {
            let guard = placed.with_attributes(guard(context, &placed));
            let rest = expand(context, rest)?;
            return Ok(quote!(#guard #rest));
        }
    }
    let found = nested::find(context, first)?;
    if found.is_async {
        return Err(Error::new(first.span(), "an async cleanup needs an `async fn`"));
    }
    if !found.any {
        let rest = expand(context, rest)?;
        return Ok(quote!(#first #rest));
    }
    let pile = context.fresh("pile");
    let statement = nested::rewrite(context, first, &pile, &found)?;
    if found.aware {
        let declared = quote!(let #pile = ::epilogue::__private::EndingPile::new(););
        let end = end();
        let split = split(context, &quote!(#statement), rest, first.span(), quote!(#end.pay_all(#pile);))?;
        return Ok(quote!(#declared #split));
    }
    let new = context.pile();
    let rest = expand(context, rest)?;
    Ok(quote!(let #pile = #new; #statement #rest))
}

/// A guard in the place of a plain cleanup.
pub(crate) fn guard(context: &mut Context, placed: &Placed) -> TokenStream {
    let Call::Plain { moves, body } = &placed.call else { return TokenStream::new() };
    let (span, guard) = (placed.span, context.guard());
    // The name is seen in the compiler's messages about borrows.
    let name = proc_macro2::Ident::new("deferred", Span::mixed_site().located_at(span));
    if !context.recorded {
        let closure = context.closure(span, *moves, body);
        return quote_spanned!(span=> #[allow(unreachable_code)] let #name = #guard::new(#closure););
    }
    let _ = context.fresh("guard");
    let (number, live) = (context.number(), context::live());
    let body = quote_spanned!(span=> { #live.paid(#number); #body });
    let moves = moves.then(|| quote!(let #live = &#live;));
    let closure = context.closure(span, moves.is_some(), &body);
    quote_spanned! {span=>
        #[allow(unreachable_code)]
        let #name = #guard::new({
            ::epilogue::__private::owes(&#live, #number);
            #moves
            #closure
        });
    }
}

/// What runs after the rest of the function, with the ending at hand.
pub(crate) fn inline(placed: &Placed) -> TokenStream {
    let (span, place, end) = (placed.span, place(placed.span), end());
    match &placed.call {
        Call::Aware { closure } => quote_spanned!(span=> #end.pay(#place, #closure);),
        Call::Sometimes { when, moves, body } => {
            let body = expression(body, span);
            let moves = moves.then(|| quote_spanned!(span=> move));
            let method = if *when == When::Err {
                quote_spanned!(span=> pay_err)
            } else {
                quote_spanned!(span=> pay_ok)
            };
            quote_spanned!(span=> #end.#method(#place, #moves || #body);)
        }
        _ => TokenStream::new(),
    }
}

/// Moves the rest into a closure and puts code after it.
fn split(
    context: &mut Context,
    statement: &TokenStream,
    rest: &[Stmt],
    span: Span,
    code: TokenStream,
) -> syn::Result<TokenStream> {
    if matches!(context.output, Some(Type::Never(_))) {
        let why = "a function that never returns has no ending to look at; a plain `defer!` it may have";
        return Err(Error::new(span, why));
    }
    let (items, rest) = apart(rest);
    let outside = std::mem::replace(&mut context.bounded, true);
    let rest = expand(context, &rest)?;
    context.bounded = outside;
    let (returns, end) = (context.returns(), end());
    let (finish, knows) = (finish(context, span), knows_errors(context));
    let failure = knows_failure(&quote!(of_attempt));
    Ok(quote! {
        #(#items)*
        let mut #end = ::epilogue::__private::Attempt::new();
        #end.run(|| #returns { #statement #rest });
        #failure
        #knows
        #code
        #finish
    })
}

/// Items are known in the whole block that they stand in: they stay outside of the closure.
pub(crate) fn apart(statements: &[Stmt]) -> (Vec<Stmt>, Vec<Stmt>) {
    statements.iter().cloned().partition(|statement| matches!(statement, Stmt::Item(_)))
}

/// Whether the function failed is asked of its result's type, by the kind of attempt that holds it.
pub(crate) fn knows_failure(of: &TokenStream) -> TokenStream {
    let end = end();
    quote! {{
        #[allow(unused_imports)]
        use ::epilogue::__private::{CanFail as _, CannotFail as _};
        let __failed = (&::epilogue::__private::Kind::#of(&#end)).failed();
        #end.set_failed(__failed);
    }}
}

/// A cleanup's error makes a failure of the function, if its result can hold it: the cleanups that look
/// at the ending are to see that.
pub(crate) fn knows_errors(context: &Context) -> TokenStream {
    if !context.keeps_errors {
        return TokenStream::new();
    }
    let (end, errors) = (end(), context::errors());
    quote! {{
        #[allow(unused_imports)]
        use ::epilogue::__private::{CanHold as _, CannotHold as _};
        let __holds = (&#end.kind()).holds();
        #end.set_holds(__holds.joins(), &#errors);
    }}
}

pub(crate) fn finish(context: &Context, span: Span) -> TokenStream {
    let end = end();
    if context.keeps_errors {
        let errors = context::errors();
        quote_spanned!(span=> #end.finish_into(&#errors))
    } else {
        quote_spanned!(span=> #end.finish())
    }
}
