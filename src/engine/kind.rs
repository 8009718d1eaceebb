//! Engines by name.

use super::Error;
use crate::named::Named;
use std::str::FromStr;

/// The engine that runs programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// A PJRT plugin, loaded at run time.
    #[default]
    Pjrt,
    /// The C++ extension that the crate `xla` links, in builds with the feature `xla-extension`.
    Xla,
    /// The interpreter of [`hlo`]: slow, on the host, without dependencies. The reference for the other engines.
    Interpreter,
}

impl Named for EngineKind {
    const KIND: &'static str = "engine";
    const ALL: &'static [Self] = &[EngineKind::Pjrt, EngineKind::Xla, EngineKind::Interpreter];

    fn name(self) -> &'static str {
        match self {
            EngineKind::Pjrt => "pjrt",
            EngineKind::Xla => "xla",
            EngineKind::Interpreter => "interpreter",
        }
    }
}

impl EngineKind {
    /// Fails for engines other than [`EngineKind::Pjrt`]; `what` needs a plugin.
    ///
    /// # Errors
    /// [`Error::OnlyPjrt`].
    pub fn only_pjrt(self, what: &'static str) -> Result<(), Error> {
        match self {
            EngineKind::Pjrt => Ok(()),
            engine => Err(Error::OnlyPjrt { what, engine }),
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        Ok(EngineKind::find(given)?)
    }
}
