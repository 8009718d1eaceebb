//! From a name and options to a network.

use crate::{Error, MnistFc, Model};

/// The networks by name. `_` and `-` are the same, or left out.
pub const NAMES: &[&str] = &["mnist-fc"];

/// A network as asked for. `None` is the network's own default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Name, one of [`NAMES`] or like one.
    pub name: String,
    /// Variable names of sparse training, or of the dense baseline.
    pub masked: bool,
    /// Number of classes.
    pub classes: Option<usize>,
    /// Units of the layers between, of `mnist-fc`.
    pub hidden: Option<Vec<usize>>,
    /// How many pixels the first layer of `mnist-fc` sees, when not all.
    pub kept_pixels: Option<usize>,
}

impl Options {
    /// The network of that name as published.
    pub fn new(name: impl Into<String>, masked: bool) -> Self {
        Options {
            name: name.into(),
            masked,
            classes: None,
            hidden: None,
            kept_pixels: None,
        }
    }

    /// The network.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a name, [`Error::Option`] for a value that the network cannot take.
    pub fn build(&self) -> Result<Box<dyn Model>, Error> {
        let plain: String = self.name.to_lowercase().replace(['-', '_'], "");
        match plain.as_str() {
            "mnistfc" => {
                let default = MnistFc::new(self.masked);
                Ok(Box::new(MnistFc {
                    kept_pixels: self.kept_pixels,
                    hidden: self.hidden.clone().unwrap_or(default.hidden),
                    classes: self.classes.unwrap_or(default.classes),
                    ..default
                }))
            }
            _ => Err(Error::Unknown {
                found: self.name.clone(),
            }),
        }
    }
}

/// The published network of that name; `masked` chooses between the variable names of sparse training and those of the
/// dense baseline. `None`: no such network.
pub fn find(name: &str, masked: bool) -> Option<Box<dyn Model>> {
    Options::new(name, masked).build().ok()
}
