//! Parts whose start may fail, or take too long.

use std::time::Duration;

use crate::error::Error;
use crate::os;
use crate::part::{Part, Started};

/// A part without which the program goes on; see [`Part::optional`].
#[must_use = "nothing starts until it is started: app.start(…).await?"]
pub struct Optional<P>(pub(crate) P);

impl<P: Part> Part for Optional<P> {
    type Handle = Option<P::Handle>;

    fn name(&self) -> String {
        self.0.name()
    }

    async fn start(self) -> Result<Started<Self::Handle>, Error> {
        let name = self.0.name();
        match self.0.start().await {
            Ok(Started { handle, stop }) => Ok(Started { handle: Some(handle), stop }),
            Err(error) if error.is_stopping() => Err(error),
            Err(error) => {
                os::say(&format!("epilogue: {name} did not start: {error}; going on without it"));
                let note = async move |cx: crate::StopCx| {
                    cx.note(format!("had not started: {error}"));
                    Ok(())
                };
                Ok(Started::new(None, note).floor(Duration::ZERO))
            }
        }
    }
}

/// A part whose start has a limit; see [`Part::start_within`].
#[must_use = "nothing starts until it is started: app.start(…).await?"]
pub struct StartWithin<P> {
    pub(crate) part: P,
    pub(crate) limit: Duration,
}

impl<P: Part> Part for StartWithin<P> {
    type Handle = P::Handle;

    fn name(&self) -> String {
        self.part.name()
    }

    async fn start(self) -> Result<Started<P::Handle>, Error> {
        let late = || Error::msg(format!("it did not start within {:?}", self.limit));
        tokio::time::timeout(self.limit, self.part.start()).await.unwrap_or_else(|_| Err(late()))
    }
}
