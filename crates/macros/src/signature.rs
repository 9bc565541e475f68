//! The function around the body: what it may be, and what stands first and last in it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::visit_mut::VisitMut;
use syn::{Error, ItemFn, ReturnType, Signature, Stmt, Type, TypeImplTrait, parse_quote};

use crate::context::{self, Context};
use crate::settings::Settings;
use crate::{async_body, nested, sync_body};

pub(crate) fn expand(settings: Settings, function: ItemFn) -> TokenStream {
    let ItemFn { attrs, vis, sig, block } = &function;
    match body(settings, sig, &block.stmts) {
        Ok(body) => quote!(#(#attrs)* #vis #sig { #body }),
        Err(error) => {
            // With the function, so that nobody is told beside that it cannot be found.
            let error = error.into_compile_error();
            quote!(#error #(#attrs)* #[allow(unused)] #vis #sig { ::core::unreachable!() })
        }
    }
}

fn body(settings: Settings, sig: &Signature, statements: &[Stmt]) -> syn::Result<TokenStream> {
    refuse(&settings, sig)?;
    nested::refuse_hidden_body(statements)?;
    let is_async = sig.asyncness.is_some();
    let output = output(&sig.output);
    let keeps_errors = output.as_ref().is_some_and(may_be_a_result);
    let mut context =
        Context::new(output, keeps_errors, is_async, is_async && !settings.local, !settings.unrecorded);
    let body = if is_async {
        async_body::expand(&mut context, statements)?
    } else {
        sync_body::expand(&mut context, statements)?
    };
    Ok(around(&context, sig, body))
}

fn refuse(settings: &Settings, sig: &Signature) -> syn::Result<()> {
    if let Some(word) = &sig.constness {
        return Err(Error::new_spanned(word, "a `const fn` cannot defer: nothing could unwind in it"));
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

/// Whether it could be a `Result`, under whatever name: what type it is, only the compiler knows. Of a
/// type that cannot be one, the function is left without a closure around it.
fn may_be_a_result(output: &Type) -> bool {
    const NONE: [&str; 26] = [
        "bool", "char", "str", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128",
        "isize", "f32", "f64", "String", "PathBuf", "Option", "Vec", "Box", "Rc", "Arc", "HashMap",
        "ExitCode",
    ];
    match output {
        Type::Path(path) => {
            path.path.segments.last().is_some_and(|last| !NONE.iter().any(|none| last.ident == none))
        }
        Type::Macro(_) | Type::Group(_) | Type::Paren(_) => true,
        _ => false,
    }
}

/// The list of live scopes before the body, the errors of cleanups around it.
fn around(context: &Context, sig: &Signature, body: TokenStream) -> TokenStream {
    let listed = context.recorded.then(|| {
        let (live, name) = (context::live(), sig.ident.to_string());
        quote! {
            let #live = ::epilogue::__private::enter(::core::concat!(::core::module_path!(), "::", #name));
        }
    });
    let mentions = context.mentions();
    if !context.keeps_errors {
        return quote!(#mentions #listed #body);
    }
    let (errors, returns) = (context::errors(), context.returns());
    let result_name = Ident::new("__result", Span::mixed_site());
    let result = if context.is_async {
        quote!(::epilogue::__private::call_async(async || #returns { #body }).await)
    } else {
        quote!(::epilogue::__private::call_once(|| #returns { #body }))
    };
    quote! {
        #mentions
        #listed
        let #errors = ::epilogue::__private::Errors::new();
        let #result_name = #result;
        {
            #[allow(unused_imports)]
            use ::epilogue::__private::{CanHold as _, CannotHold as _};
            (&::epilogue::__private::Kind::of(&#result_name)).holds().join(#result_name, #errors)
        }
    }
}
