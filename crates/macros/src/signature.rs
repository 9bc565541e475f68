//! The function around the body: what it may be, and what stands first and last in it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::visit_mut::VisitMut;
use syn::{Error, ItemFn, ReturnType, Type, TypeImplTrait, parse_quote};

use crate::context::{self, Context};
use crate::settings::Settings;
use crate::{async_body, sync_body};

pub(crate) fn expand(settings: Settings, mut function: ItemFn) -> syn::Result<TokenStream> {
    refuse(&settings, &function)?;
    let is_async = function.sig.asyncness.is_some();
    let output = output(&function.sig.output);
    let keeps_errors = output.as_ref().is_some_and(is_result);
    let mut context =
        Context::new(output, keeps_errors, is_async, is_async && !settings.local, !settings.unrecorded);
    let statements = std::mem::take(&mut function.block.stmts);
    let body = if is_async {
        async_body::expand(&mut context, &statements)?
    } else {
        sync_body::expand(&mut context, &statements)?
    };
    let body = around(&context, &function, body);
    function.block = parse_quote!({ #body });
    Ok(quote!(#function))
}

fn refuse(settings: &Settings, function: &ItemFn) -> syn::Result<()> {
    let sig = &function.sig;
    if let Some(word) = &sig.constness {
        return Err(Error::new_spanned(word, "a `const fn` cannot defer: nothing could unwind in it"));
    }
    if let ReturnType::Type(_, output) = &sig.output
        && matches!(**output, Type::Never(_))
    {
        return Err(Error::new_spanned(
            output,
            "a function that never returns has no ending to look at; use `defer!` without `#[scoped]`",
        ));
    }
    if settings.local && sig.asyncness.is_none() {
        return Err(Error::new_spanned(sig.fn_token, "`local` is for an `async fn`"));
    }
    Ok(())
}

/// What the function returns, if that can be written a second time.
fn output(output: &ReturnType) -> Option<Type> {
    let mut output = match output {
        ReturnType::Default => return Some(parse_quote!(())),
        ReturnType::Type(_, output) => (**output).clone(),
    };
    let mut found = FindImplTrait(false);
    found.visit_type_mut(&mut output);
    (!found.0).then_some(output)
}

struct FindImplTrait(bool);

impl VisitMut for FindImplTrait {
    fn visit_type_impl_trait_mut(&mut self, _: &mut TypeImplTrait) {
        self.0 = true;
    }
}

/// By its name: what type it is, only the compiler knows. An alias such as `io::Result` counts.
fn is_result(output: &Type) -> bool {
    let Type::Path(path) = output else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident.to_string().ends_with("Result"))
}

/// The list of live scopes before the body, the errors of cleanups around it.
fn around(context: &Context, function: &ItemFn, body: TokenStream) -> TokenStream {
    let listed = context.recorded.then(|| {
        let (live, name) = (context::live(), function.sig.ident.to_string());
        quote! {
            let #live = ::epilogue::__private::enter(::core::concat!(::core::module_path!(), "::", #name));
        }
    });
    let mentions = context.mentions();
    if !context.keeps_errors {
        return quote!(#mentions #listed #body);
    }
    let (errors, returns) = (context::errors(), context.returns());
    let result = if context.is_async {
        quote!((async || #returns { #body })().await)
    } else {
        quote!(::epilogue::__private::call_once(|| #returns { #body }))
    };
    quote! {
        #mentions
        #listed
        let #errors = ::epilogue::__private::Errors::new();
        let __result = #result;
        {
            #[allow(unused_imports)]
            use ::epilogue::__private::{CanHold as _, CannotHold as _};
            let __holds = (&::epilogue::__private::Kind::of(&__result)).holds();
            __holds.join(__result, #errors)
        }
    }
}
