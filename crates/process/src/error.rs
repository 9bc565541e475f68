//! The one error type of bodies, parts and stops.

use std::fmt;

/// Any error, as bodies, parts and stops return it. Made by `?` from every type that is a [`std::error::Error`], and by
/// [`from_boxed`](Error::from_boxed) from what is not one: `Box<dyn Error>`, `anyhow::Error`.
///
/// Not itself a `std::error::Error`, so that the conversion can be this wide; `Display` shows the
/// error with its sources, `: ` between them.
pub struct Error(Kind);

enum Kind {
    Stopping,
    Message(String),
    Within(String, Box<Error>),
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error of words alone.
    pub fn msg(message: impl Into<String>) -> Error {
        Error(Kind::Message(message.into()))
    }

    /// An error in a box, which is no error type itself; of `anyhow`'s too.
    ///
    /// ```
    /// # use epilogue_process::Error;
    /// fn parse(text: &str) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    ///     Ok(text.parse()?)
    /// }
    ///
    /// fn port() -> Result<u16, Error> {
    ///     parse("http").map_err(Error::from_boxed)        // of anyhow: |error| Error::from_boxed(error.into())
    /// }
    /// assert_eq!(port().unwrap_err().to_string(), "invalid digit found in string");
    /// ```
    pub fn from_boxed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error(Kind::Other(error))
    }

    /// The same error, with words on where it happened before it.
    pub fn context(self, place: impl Into<String>) -> Error {
        match self.0 {
            // It is not one: everybody asks for it.
            Kind::Stopping => self,
            _ => Error(Kind::Within(place.into(), Box::new(self))),
        }
    }

    pub(crate) fn stopping() -> Error {
        Error(Kind::Stopping)
    }

    /// True when a start was refused because the program is stopping. A body passes it on with
    /// `?`; it does not make the exit status a failure.
    pub fn is_stopping(&self) -> bool {
        matches!(self.0, Kind::Stopping)
    }

    /// The error inside, if it is of type `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match &self.0 {
            Kind::Other(error) => error.downcast_ref(),
            Kind::Within(_, error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Error {
        Error(Kind::Other(Box::new(error)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Stopping => f.write_str("the program is stopping: nothing new is started"),
            Kind::Message(message) => f.write_str(message),
            Kind::Within(place, error) => write!(f, "{place}: {error}"),
            Kind::Other(error) => {
                let mut text = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    let words = cause.to_string();
                    // Some say their cause themselves.
                    if !text.ends_with(&words) {
                        text = format!("{text}: {words}");
                    }
                    source = cause.source();
                }
                f.write_str(&text)
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
