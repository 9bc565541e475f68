//! The statements of an `async fn`.
//!
//! A cleanup placed after an `.await` would be lost when the future is dropped there. So a cleanup
//! that looks at the ending is built before the rest runs, and one that is a future goes to a stack
//! that outlives the rest: what is still on it when the future is dropped goes to the lane.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Stmt};

use crate::call::{Call, Placed, When};
use crate::context::{Context, async_stack, braced, end, expression, place};
use crate::nested;
use crate::sync_body::{apart, finish, guard, knows_errors, knows_failure};

/// Rewrites the statements from here to the end of the function.
pub(crate) fn expand(context: &mut Context, statements: &[Stmt]) -> syn::Result<TokenStream> {
    let Some((first, rest)) = statements.split_first() else { return Ok(TokenStream::new()) };
    if let Stmt::Macro(mac) = first
        && let Some(placed) = Placed::read(&mac.mac, &mac.attrs)?
    {
        context.names(&mac.mac);
        if placed.is_async() {
            let registered = placed.with_attributes(register(&placed));
            return async_split(context, quote!(), rest, &placed, quote!(#registered;));
        }
        if placed.looks_at_the_ending() {
            return aware_split(context, rest, &placed);
        }
        if matches!(placed.call, Call::Plain { .. }) {
            let guard = placed.with_attributes(guard(context, &placed));
            let rest = expand(context, rest)?;
            return Ok(quote!(#guard #rest));
        }
    }
    let found = nested::find(context, first)?;
    if found.aware {
        return Err(Error::new(
            first.span(),
            "in an `async fn` a cleanup that looks at the ending stands in the function's own block, not in a \
             loop or a branch; an async one may: `defer!(async |how| …)`",
        ));
    }
    if !found.any {
        let rest = expand(context, rest)?;
        return Ok(quote!(#first #rest));
    }
    if found.is_async && found.sync {
        return Err(Error::new(
            first.span(),
            "a loop, a branch or a block cannot mix cleanups that await with others, whose order could not be \
             kept: let all of them await, `defer!(async { … })`, or none",
        ));
    }
    let pile = context.fresh("pile");
    let statement = nested::rewrite(context, first, &pile, &found)?;
    // Where it is an async cleanup that makes the boundary, the pile is inside of it.
    let outside = context.bounded;
    context.bounded |= found.is_async;
    let new = context.pile();
    context.bounded = outside;
    let declared = quote!(let #pile = #new;);
    if found.is_async {
        let call = Call::Plain { moves: false, body: quote!() };
        let span = Placed { call, span: first.span(), attributes: Vec::new() };
        return async_split(context, quote!(#declared #statement), rest, &span, quote!());
    }
    let rest = expand(context, rest)?;
    Ok(quote!(#declared #statement #rest))
}

/// Puts an async cleanup on the function's stack.
pub(crate) fn register(placed: &Placed) -> TokenStream {
    let Call::Async { when, how, body } = &placed.call else { return TokenStream::new() };
    let (stack, span, body) = (async_stack(), placed.span, braced(body, placed.span));
    let method = match when {
        // At the user's place: it is asked who called.
        When::Always => quote_spanned!(span=> defer),
        When::Err => quote_spanned!(span=> defer_err),
        When::Ok => quote_spanned!(span=> defer_ok),
    };
    match how {
        Some(how) => {
            quote_spanned! {span=> {
                let _ = ::epilogue::__private::AsyncStack::#method(&#stack, move |#how| async move #body);
            }}
        }
        None => {
            quote_spanned! {span=> {
                let _ = ::epilogue::__private::AsyncStack::#method(&#stack, move |_| async move #body);
            }}
        }
    }
}

/// Runs the rest, then pays the function's stack down to where it was.
fn async_split(
    context: &mut Context,
    statement: TokenStream,
    rest: &[Stmt],
    placed: &Placed,
    registered: TokenStream,
) -> syn::Result<TokenStream> {
    let (stack, end) = (async_stack(), end());
    let declared = (!context.has_async_stack).then(|| {
        quote! {
            let #stack = ::epilogue::__private::AsyncStack::new();
        }
    });
    context.has_async_stack = true;
    let depth = context.fresh("depth");
    let attempt = attempt(context, statement, rest)?;
    let finish = finish(context, placed.span);
    Ok(quote! {
        #declared
        let #depth = #stack.pending();
        #registered
        #attempt
        #stack.pay_down(#depth, &mut #end).await;
        #finish
    })
}

/// Builds the cleanup, runs the rest, then the cleanup; dropped in between, the cleanup runs too.
fn aware_split(context: &mut Context, rest: &[Stmt], placed: &Placed) -> syn::Result<TokenStream> {
    let (span, end, place) = (placed.span, end(), place(placed.span));
    let Some(output) = context.output.clone() else {
        let why = "the ending of a function that returns `impl Trait` has no name in an `async fn`: name the \
                   type, or box it";
        return Err(Error::new(span, why));
    };
    let cleanup = match &placed.call {
        Call::Aware { closure } => {
            quote_spanned!(span=> ::epilogue::__private::on_any::<#output, _>(#closure))
        }
        Call::Sometimes { when, moves, body } => {
            let body = expression(body, span);
            let moves = moves.then(|| quote_spanned!(span=> move));
            let kind =
                if *when == When::Err { quote_spanned!(span=> on_err) } else { quote_spanned!(span=> on_ok) };
            quote_spanned!(span=> ::epilogue::__private::#kind::<#output, _>(#moves || #body))
        }
        _ => return Ok(TokenStream::new()),
    };
    let (owed, attributes) = (context.fresh("owed"), &placed.attributes);
    let attempt = attempt(context, quote!(), rest)?;
    let finish = finish(context, span);
    Ok(quote! {
        #(#attributes)*
        let #owed = ::epilogue::__private::OnEnding::<#output, _>::new(#place, #cleanup);
        #attempt
        #(#attributes)*
        #end.pay_owed(#owed);
        #finish
    })
}

fn attempt(context: &mut Context, statement: TokenStream, rest: &[Stmt]) -> syn::Result<TokenStream> {
    let (items, rest) = apart(rest);
    let outside = std::mem::replace(&mut context.bounded, true);
    let rest = expand(context, &rest)?;
    context.bounded = outside;
    let (returns, end, knows) = (context.returns(), end(), knows_errors(context));
    let failure = knows_failure(&quote!(of_async_attempt));
    Ok(quote! {
        #(#items)*
        let mut #end = ::epilogue::__private::attempt_async(
            ::epilogue::__private::call_async(async || #returns { #statement #rest })
        ).await;
        #failure
        #knows
    })
}
