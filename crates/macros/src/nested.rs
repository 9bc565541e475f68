//! Calls inside a statement: in a loop, a branch, a block.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Error, Expr, ExprAsync, ExprClosure, ExprConst, Item, Macro, Stmt, Token};

use crate::call::{Call, Placed, When, hidden_in, ours};
use crate::context::{self, Context, expression};

/// What is called inside a statement.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) any: bool,
    /// At least one looks at the ending.
    pub(crate) aware: bool,
    pub(crate) is_async: bool,
    /// At least one is not.
    pub(crate) sync: bool,
}

/// Looks through a statement without changing it.
pub(crate) fn find(context: &mut Context, statement: &Stmt) -> syn::Result<Found> {
    let mut search = Search { context, found: Found::default(), error: None };
    search.visit_stmt_mut(&mut statement.clone());
    search.error.map_or(Ok(search.found), Err)
}

/// Turns the calls inside a statement into entries of `pile`.
pub(crate) fn rewrite(context: &Context, statement: &Stmt, pile: &Ident, found: &Found) -> syn::Result<Stmt> {
    let mut rewrite = Rewrite { context, pile, aware: found.aware, error: None };
    let mut statement = statement.clone();
    rewrite.visit_stmt_mut(&mut statement);
    rewrite.error.map_or(Ok(statement), Err)
}

/// Refuses a function whose only defers are in an `async` block: another attribute has moved its body
/// there before this one saw it.
pub(crate) fn refuse_hidden_body(statements: &[Stmt]) -> syn::Result<()> {
    let mut search = InAsyncBlock { depth: 0, own: false, hidden: None };
    for statement in statements {
        search.visit_stmt_mut(&mut statement.clone());
    }
    match (search.own, search.hidden) {
        (false, Some(name)) => {
            let message = format!(
                "`{name}!` is in an `async` block, which `#[scoped]` does not look into. If you did not write \
                 one, another attribute did: put `#[scoped]` above `#[tokio::main]`, `#[tokio::test]` or \
                 `#[instrument]`; in an `#[async_trait]`, use `async_scope`"
            );
            Err(Error::new(name.span(), message))
        }
        _ => Ok(()),
    }
}

struct InAsyncBlock {
    depth: usize,
    own: bool,
    hidden: Option<Ident>,
}

impl VisitMut for InAsyncBlock {
    fn visit_macro_mut(&mut self, mac: &mut Macro) {
        if ours(mac).is_none() {
            return;
        }
        if self.depth == 0 {
            self.own = true;
        } else if let Some(last) = mac.path.segments.last() {
            self.hidden.get_or_insert_with(|| last.ident.clone());
        }
    }

    fn visit_expr_async_mut(&mut self, block: &mut ExprAsync) {
        self.depth += 1;
        visit_mut::visit_expr_async_mut(self, block);
        self.depth -= 1;
    }

    fn visit_expr_closure_mut(&mut self, _: &mut ExprClosure) {}
    fn visit_item_mut(&mut self, _: &mut Item) {}
}

struct Search<'a> {
    context: &'a mut Context,
    found: Found,
    error: Option<Error>,
}

impl VisitMut for Search<'_> {
    fn visit_macro_mut(&mut self, mac: &mut Macro) {
        match Placed::read(mac, &[]) {
            Ok(Some(placed)) => {
                self.context.names(mac);
                self.found.any = true;
                self.found.sync |= !placed.is_async();
                self.found.aware |= placed.looks_at_the_ending();
                self.found.is_async |= placed.is_async();
            }
            Ok(None) => {
                if let Some(name) = hidden_in(mac.tokens.clone()) {
                    let other =
                        mac.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
                    let message = format!(
                        "`{name}!` inside `{other}!` cannot be seen by `#[scoped]`: move it out, or put what is \
                         in the braces into a function or a closure of its own"
                    );
                    join(&mut self.error, Error::new(name.span(), message));
                }
            }
            Err(error) => join(&mut self.error, error),
        }
    }

    fn visit_expr_closure_mut(&mut self, _: &mut ExprClosure) {}
    fn visit_expr_async_mut(&mut self, _: &mut ExprAsync) {}
    fn visit_expr_const_mut(&mut self, _: &mut ExprConst) {}
    fn visit_item_mut(&mut self, _: &mut Item) {}
}

struct Rewrite<'a> {
    context: &'a Context,
    pile: &'a Ident,
    aware: bool,
    error: Option<Error>,
}

impl Rewrite<'_> {
    fn entry(&self, placed: &Placed) -> TokenStream {
        let span = placed.span;
        // Where the user wrote it: the compiler speaks of borrows of the pile.
        let mut pile = self.pile.clone();
        pile.set_span(Span::mixed_site().located_at(span));
        match &placed.call {
            Call::Plain { moves, body } => {
                let closure = self.context.closure(span, *moves, body);
                quote_spanned!(span=> #pile.defer(#closure))
            }
            Call::Aware { closure } => quote_spanned!(span=> #pile.defer_with(#closure)),
            Call::Sometimes { when, moves, body } => {
                let body = expression(body, span);
                let moves = moves.then(|| quote_spanned!(span=> move));
                let method = if *when == When::Err {
                    quote_spanned!(span=> defer_err)
                } else {
                    quote_spanned!(span=> defer_ok)
                };
                quote_spanned!(span=> #pile.#method(#moves || #body))
            }
            Call::Async { .. } => crate::async_body::register(placed),
            Call::Keep { value, cleanup } if self.context.keeps_errors && !self.aware => {
                let (errors, place) = (context::errors(), context::place(span));
                quote_spanned!(span=> match #value {
                    __value => #pile.keep_into(&#errors, #place, __value, #cleanup),
                })
            }
            // The value first: no reference to the pile may live while it is awaited.
            Call::Keep { value, cleanup } => quote_spanned! {span=> match #value {
                __value => #pile.keep(__value, #cleanup),
            }},
        }
    }
}

impl Rewrite<'_> {
    /// A call of ours; nothing for any other macro, and for one that cannot be read.
    fn call(&mut self, mac: &Macro, attributes: &[Attribute]) -> Option<Placed> {
        Placed::read(mac, attributes).unwrap_or_else(|error| {
            join(&mut self.error, error);
            None
        })
    }
}

impl VisitMut for Rewrite<'_> {
    fn visit_stmt_mut(&mut self, statement: &mut Stmt) {
        if let Stmt::Macro(mac) = statement
            && let Some(placed) = self.call(&mac.mac, &mac.attrs)
        {
            let entry = placed.with_attributes(self.entry(&placed));
            *statement = Stmt::Expr(Expr::Verbatim(entry), Some(Token![;](placed.span)));
            return;
        }
        visit_mut::visit_stmt_mut(self, statement);
    }

    fn visit_expr_mut(&mut self, expression: &mut Expr) {
        if let Expr::Macro(mac) = expression
            && let Some(placed) = self.call(&mac.mac, &mac.attrs)
        {
            *expression = Expr::Verbatim(placed.with_attributes(self.entry(&placed)));
            return;
        }
        visit_mut::visit_expr_mut(self, expression);
    }

    fn visit_expr_closure_mut(&mut self, _: &mut ExprClosure) {}
    fn visit_expr_async_mut(&mut self, _: &mut ExprAsync) {}
    fn visit_expr_const_mut(&mut self, _: &mut ExprConst) {}
    fn visit_item_mut(&mut self, _: &mut Item) {}
}

fn join(all: &mut Option<Error>, error: Error) {
    match all {
        Some(all) => all.combine(error),
        None => *all = Some(error),
    }
}
