//! Engines by name.

use super::Error;
use crate::names::Unknown;
use std::str::FromStr;

/// Which engine runs programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// A PJRT plugin, loaded at run time.
    #[default]
    Pjrt,
    /// The C++ extension that the crate `xla` links, in builds with the feature `xla-extension`.
    Xla,
    /// The interpreter of [`hlo`]: on the host, slow, needs nothing. What the others are compared with.
    Interpreter,
}

impl EngineKind {
    /// Every engine.
    pub const ALL: [EngineKind; 3] = [EngineKind::Pjrt, EngineKind::Xla, EngineKind::Interpreter];

    /// `pjrt`, `xla` or `interpreter`.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Pjrt => "pjrt",
            EngineKind::Xla => "xla",
            EngineKind::Interpreter => "interpreter",
        }
    }

    /// Refuses any engine but [`EngineKind::Pjrt`], for `what` only a plugin gives.
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
        let names = EngineKind::ALL.map(EngineKind::name);
        let known = EngineKind::ALL.into_iter().find(|engine| engine.name() == given);
        Ok(known.ok_or_else(|| Unknown::new("engine", given, names))?)
    }
}
