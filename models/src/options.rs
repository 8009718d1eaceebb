//! Builds a network from a name and options.

use crate::imagenet::ImageNet;
use crate::mobilenet::{MobileNet, Version};
use crate::wide_resnet::{WideResNet, WideResNetConfig};
use crate::{Error, MnistFc, Model, ResNet, Variant, Vgg};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Names of networks. `_` and `-` are equivalent. `resnet50` may be written `resnet-50`, or `resnet` with a depth. Wide
/// residual networks have many names of the form `wrn-22-2`, which is `wide-resnet` with a depth and a width.
pub const NAMES: &[&str] = &[
    "mnist-fc",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet200",
    "mobilenet-v1",
    "mobilenet-v2",
    "wide-resnet",
    "wrn-22-2",
    "vgg-a",
    "vgg-13",
    "vgg-16",
    "vgg-19",
];

/// A family of networks, built by one piece of code and trained by one driver of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `mnist-fc`.
    MnistFc,
    /// Residual networks for ImageNet.
    ResNet,
    /// MobileNet, both versions.
    MobileNet,
    /// VGG.
    Vgg,
    /// Wide residual networks for CIFAR.
    WideResNet,
}

impl Family {
    /// The family of the network `name`; `None` if the name is unknown.
    pub fn from_name(name: &str) -> Option<Self> {
        let (name, family) = normalised(name);
        match family.as_str() {
            "mnistfc" => Some(Family::MnistFc),
            "mobilenetv1" | "mobilenetv2" => Some(Family::MobileNet),
            "vgga" | "vgg13" | "vgg16" | "vgg19" => Some(Family::Vgg),
            "wideresnet" => Some(Family::WideResNet),
            _ if name.starts_with("wrn-") => Some(Family::WideResNet),
            family if family.starts_with("resnet") => Some(Family::ResNet),
            _ => None,
        }
    }
}

/// Normalises a name: lower case with `-` for `_`, and the same without `-`.
fn normalised(name: &str) -> (String, String) {
    let name = name.to_lowercase().replace('_', "-");
    let family = name.chars().filter(|c| *c != '-').collect();
    (name, family)
}

/// Upper bound for classes, units and image sizes, which keeps products of dimensions from overflowing.
const MAX_EXTENT: usize = 1 << 16;

/// Range of widths in which no layer is without channels and no product of dimensions overflows.
const WIDTHS: RangeInclusive<f64> = 1.0 / 16.0..=64.0;

/// A requested network. `None` selects the network's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Name, in any spelling of [`NAMES`].
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
        let (name, family) = normalised(&self.name);
        match Family::from_name(&self.name) {
            None => Err(self.unknown()),
            Some(Family::MnistFc) => self.mnist_fc(),
            Some(Family::MobileNet) if family == "mobilenetv1" => self.mobile_net(Version::V1),
            Some(Family::MobileNet) => {
                let expansion = self.within("expansion", self.expansion.unwrap_or(6.0), WIDTHS)?;
                self.mobile_net(Version::V2 { expansion })
            }
            Some(Family::Vgg) => self.vgg(&family["vgg".len()..]),
            Some(Family::WideResNet) => self.wide_res_net(name.strip_prefix("wrn-")),
            Some(Family::ResNet) => self.res_net(&family["resnet".len()..]),
        }
    }

    fn mnist_fc(&self) -> Result<Box<dyn Model>, Error> {
        self.only(&["hidden", "kept_pixels"])?;
        let default = MnistFc::new(self.masked);
        let hidden = self.hidden.clone().unwrap_or(default.hidden);
        if let Some(units) = hidden.iter().find(|units| !(1..=MAX_EXTENT).contains(*units)) {
            return Err(self.wrong("hidden", units, format!("units from 1 to {MAX_EXTENT}")));
        }
        let kept = |kept| self.within("kept_pixels", kept, 1..=default.pixels);
        Ok(Box::new(MnistFc {
            kept_pixels: self.kept_pixels.map(kept).transpose()?,
            hidden,
            classes: self.within("classes", self.classes.unwrap_or(default.classes), 1..=MAX_EXTENT)?,
            ..default
        }))
    }

    /// `depth` is the part of the name after `resnet`.
    fn res_net(&self, depth: &str) -> Result<Box<dyn Model>, Error> {
        self.only(&["depth", "width", "mask_first", "mask_last", "image_size", "variant"])?;
        self.variants(&[Variant::Original, Variant::Torchvision])?;
        let named = match depth {
            "" => None,
            text => Some(text.parse::<usize>().map_err(|_| self.unknown())?),
        };
        let depth = self.named_or_given("depth", named, self.depth)?.unwrap_or(50);
        match ResNet::new(depth, self.image_net(self.mask_first.unwrap_or(false), 1)?) {
            Some(network) => Ok(Box::new(network)),
            None if named.is_some() => Err(self.unknown()),
            None => {
                let depths: Vec<String> = ResNet::depths().map(|depth| depth.to_string()).collect();
                Err(self.wrong("depth", depth, format!("one of {}", depths.join(", "))))
            }
        }
    }

    fn mobile_net(&self, version: Version) -> Result<Box<dyn Model>, Error> {
        let own: &[_] = match version {
            Version::V1 => &[],
            Version::V2 { .. } => &["expansion", "variant"],
        };
        self.variants(&[Variant::Original, Variant::Torchvision])?;
        self.only(&[&["width", "mask_first", "mask_last", "image_size"], own].concat())?;
        if self.mask_first == Some(true) {
            return Err(self.wrong("mask_first", true, "false: its first layer has no mask".into()));
        }
        let config = self.image_net(false, 1)?;
        Ok(Box::new(MobileNet { version, config }))
    }

    fn vgg(&self, variant: &str) -> Result<Box<dyn Model>, Error> {
        self.only(&["width", "mask_first", "mask_last", "image_size", "variant"])?;
        if self.mask_first == Some(false) {
            return Err(self.wrong("mask_first", false, "true: its first layer always has a mask".into()));
        }
        // Four or five pooling layers halve the image.
        let smallest = match self.variant.unwrap_or_default() {
            Variant::Original => 16,
            Variant::Torchvision | Variant::TorchvisionBn => 32,
        };
        let network = Vgg::new(&format!("vgg-{variant}"), self.image_net(true, smallest)?);
        network.map_or_else(|| Err(self.unknown()), |network| Ok(Box::new(network) as _))
    }

    fn image_net(&self, mask_first: bool, smallest_image: usize) -> Result<ImageNet, Error> {
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

    /// `size` is the part of the name after `wrn-`: depth and width.
    fn wide_res_net(&self, size: Option<&str>) -> Result<Box<dyn Model>, Error> {
        let own = ["depth", "width", "mask_first", "mask_last", "image_size", "dropout"];
        self.only(&own)?;
        let (depth, width) = match size {
            None => (None, None),
            Some(size) => {
                let parsed = size
                    .split_once('-')
                    .map(|(depth, width)| (depth.parse(), width.parse()));
                let Some((Ok(depth), Ok(width))) = parsed else {
                    return Err(self.unknown());
                };
                (Some(depth), Some(width))
            }
        };
        let width = self.named_or_given("width", width, self.width)?.unwrap_or(4.0);
        let depth = self.named_or_given("depth", depth, self.depth)?.unwrap_or(16);
        let config = WideResNetConfig {
            depth: self.within("depth", depth, 10..=1000)?,
            width: self.within("width", width, WIDTHS)?,
            masked: self.masked,
            mask_first: self.mask_first.unwrap_or(false),
            mask_last: self.mask_last.unwrap_or(true),
            dropout: self.within("dropout", self.dropout.unwrap_or(0.3), 0.0..=0.99)?,
            classes: self.within("classes", self.classes.unwrap_or(10), 1..=MAX_EXTENT)?,
            image_size: self.within("image_size", self.image_size.unwrap_or(32), 1..=MAX_EXTENT)?,
        };
        let network = WideResNet::new(config).map(|network| Box::new(network) as _);
        network.ok_or_else(|| self.wrong("depth", depth, "6 n + 4 layers, such as 16, 22 or 28".into()))
    }

    /// Returns the value if it is in `range`.
    fn within<T>(&self, option: &'static str, value: T, range: RangeInclusive<T>) -> Result<T, Error>
    where
        T: Copy + PartialOrd + Display,
    {
        match range.contains(&value) {
            true => Ok(value),
            false => Err(self.wrong(option, value, format!("from {} to {}", range.start(), range.end()))),
        }
    }

    /// A value from the name or from an option; if both give one, they must agree.
    fn named_or_given<T>(&self, option: &'static str, name: Option<T>, given: Option<T>) -> Result<Option<T>, Error>
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
    fn only(&self, used: &[&str]) -> Result<(), Error> {
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
    fn variants(&self, known: &[Variant]) -> Result<(), Error> {
        match self.variant.filter(|variant| !known.contains(variant)) {
            None => Ok(()),
            Some(found) => {
                let known: Vec<&str> = known.iter().map(|variant| variant.name()).collect();
                Err(self.wrong("variant", found.name(), format!("one of {}", known.join(", "))))
            }
        }
    }

    fn unknown(&self) -> Error {
        Error::Unknown {
            found: self.name.clone(),
        }
    }

    fn wrong(&self, option: &'static str, found: impl Display, expected: String) -> Error {
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
