//! What may stand in the brackets of `#[scoped(…)]`.

use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, Token};

/// The settings of one function.
#[derive(Default)]
pub(crate) struct Settings {
    /// The future stays on its thread, so its cleanups need not be `Send`.
    pub(crate) local: bool,
    /// Off the list of live scopes.
    pub(crate) unrecorded: bool,
}

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Settings> {
        let mut settings = Settings::default();
        for word in Punctuated::<Ident, Token![,]>::parse_terminated(input)? {
            match word.to_string().as_str() {
                "local" => settings.local = true,
                "unrecorded" => settings.unrecorded = true,
                other => {
                    let known = "`local`, for a future that stays on its thread, and `unrecorded`";
                    return Err(Error::new(word.span(), format!("no setting `{other}`; there are {known}")));
                }
            }
        }
        Ok(settings)
    }
}
