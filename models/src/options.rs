//! Builds a network from a name and options.

use crate::imagenet::ImageNet;
use crate::{Error, Family, Model, Variant};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// A name in two normal forms.
pub(crate) struct Spelling {
    /// In lower case, with `-` for `_`.
    pub dashed: String,
    /// The same without `-`.
    pub plain: String,
}

impl Spelling {
    pub(crate) fn new(name: &str) -> Self {
        let dashed = name.to_lowercase().replace('_', "-");
        Spelling {
            plain: dashed.replace('-', ""),
            dashed,
        }
    }
}

/// Upper bound for classes, units and image sizes, which keeps products of dimensions from overflowing.
pub(crate) const MAX_EXTENT: usize = 1 << 16;

/// Range of widths in which no layer is without channels and no product of dimensions overflows.
pub(crate) const WIDTHS: RangeInclusive<f64> = 1.0 / 16.0..=64.0;

/// A requested network. `None` selects the network's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Name, in any spelling of [`names`](crate::names).
    pub name: String,
    /// Use the variable names of sparse training, or else those of the dense baseline.
    pub masked: bool,
    /// Layers of a residual network, if the name does not include it.
    pub depth: Option<usize>,
    /// Multiplier of the channel counts; for a wide residual network, if the name does not include it.
    pub width: Option<f64>,
    /// Whether the first layer has a mask.
    pub mask_first: Option<bool>,
    /// Whether the classifier has a mask.
    pub mask_last: Option<bool>,
    /// Number of classes.
    pub classes: Option<usize>,
    /// Height and width of an image.
    pub image_size: Option<usize>,
    /// Units of the hidden layers of `mnist-fc`.
    pub hidden: Option<Vec<usize>>,
    /// Number of pixels that the first layer of `mnist-fc` reads, if not all.
    pub kept_pixels: Option<usize>,
    /// Ratio of the channels inside a block of `mobilenet-v2` to its input channels.
    pub expansion: Option<f64>,
    /// Dropout rate of a wide residual network.
    pub dropout: Option<f64>,
    /// The variant of the network. Default: the original's.
    pub variant: Option<Variant>,
}

impl Options {
    /// The network `name` with its driver's defaults.
    pub fn new(name: impl Into<String>, masked: bool) -> Self {
        Options {
            name: name.into(),
            masked,
            depth: None,
            width: None,
            mask_first: None,
            mask_last: None,
            classes: None,
            image_size: None,
            hidden: None,
            kept_pixels: None,
            expansion: None,
            dropout: None,
            variant: None,
        }
    }

    /// Builds the network.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] for an unknown name, [`Error::Option`] for a value that the network does not accept or does
    /// not use.
    pub fn build(&self) -> Result<Box<dyn Model>, Error> {
        let name = Spelling::new(&self.name);
        let family = Family::from_name(&self.name).ok_or_else(|| self.unknown())?;
        (family.build)(self, &name)
    }

    pub(crate) fn image_net(&self, mask_first: bool, smallest_image: usize) -> Result<ImageNet, Error> {
        Ok(ImageNet {
            masked: self.masked,
            mask_first,
            mask_last: self.mask_last.unwrap_or(true),
            width: self.within("width", self.width.unwrap_or(1.0), WIDTHS)?,
            classes: self.within("classes", self.classes.unwrap_or(1000), 1..=MAX_EXTENT)?,
            image_size: self.within(
                "image_size",
                self.image_size.unwrap_or(224),
                smallest_image..=MAX_EXTENT,
            )?,
            variant: self.variant.unwrap_or_default(),
        })
    }

    /// Returns the value if it is in `range`.
    pub(crate) fn within<T>(&self, option: &'static str, value: T, range: RangeInclusive<T>) -> Result<T, Error>
    where
        T: Copy + PartialOrd + Display,
    {
        match range.contains(&value) {
            true => Ok(value),
            false => Err(self.wrong(option, value, format!("from {} to {}", range.start(), range.end()))),
        }
    }

    /// A value from the name or from an option; if both give one, they must agree.
    pub(crate) fn named_or_given<T>(
        &self,
        option: &'static str,
        name: Option<T>,
        given: Option<T>,
    ) -> Result<Option<T>, Error>
    where
        T: Copy + PartialEq + Display,
    {
        match (name, given) {
            (Some(name), Some(given)) if name != given => {
                Err(self.wrong(option, given, format!("{name}, as the name says")))
            }
            _ => Ok(name.or(given)),
        }
    }

    /// Checks that only these options are set (and classes, which every network has).
    pub(crate) fn only(&self, used: &[&str]) -> Result<(), Error> {
        let set = [
            ("depth", self.depth.map(|v| v.to_string())),
            ("width", self.width.map(|v| v.to_string())),
            ("mask_first", self.mask_first.map(|v| v.to_string())),
            ("mask_last", self.mask_last.map(|v| v.to_string())),
            ("image_size", self.image_size.map(|v| v.to_string())),
            ("hidden", self.hidden.as_ref().map(|v| format!("{v:?}"))),
            ("kept_pixels", self.kept_pixels.map(|v| v.to_string())),
            ("expansion", self.expansion.map(|v| v.to_string())),
            ("dropout", self.dropout.map(|v| v.to_string())),
            (
                "variant",
                self.variant.filter(|v| v.is_torchvision()).map(|v| v.name().to_owned()),
            ),
        ];
        for (option, value) in set {
            if let Some(value) = value.filter(|_| !used.contains(&option)) {
                return Err(self.wrong(option, value, "nothing: the network has no such option".into()));
            }
        }
        Ok(())
    }

    /// Checks that the variant, if one is set, is one of `known`.
    pub(crate) fn variants(&self, known: &[Variant]) -> Result<(), Error> {
        match self.variant.filter(|variant| !known.contains(variant)) {
            None => Ok(()),
            Some(found) => {
                let known: Vec<&str> = known.iter().map(|variant| variant.name()).collect();
                Err(self.wrong("variant", found.name(), format!("one of {}", known.join(", "))))
            }
        }
    }

    pub(crate) fn unknown(&self) -> Error {
        Error::Unknown {
            found: self.name.clone(),
        }
    }

    pub(crate) fn wrong(&self, option: &'static str, found: impl Display, expected: String) -> Error {
        Error::Option {
            model: self.name.clone(),
            option,
            found: found.to_string(),
            expected,
        }
    }
}

/// The network `name` with its driver's defaults. `masked` selects the variable names of sparse training instead of
/// those of the dense baseline. `None` if there is no such network.
pub fn find(name: &str, masked: bool) -> Option<Box<dyn Model>> {
    Options::new(name, masked).build().ok()
}
