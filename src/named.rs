//! Closed lists of named values, as configuration files and flags give them.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use hlo::MatmulPrecision;
use models::{Precision, Variant};

use pjrt::DeviceKind;
use sparse::names::Unknown;

/// A value of a closed list, each with a name.
pub trait Named: Copy + 'static {
    /// The kind of value, in messages, e.g. `optimizer`.
    const KIND: &'static str;
    /// Every value.
    const ALL: &'static [Self];

    /// The value's name.
    fn name(self) -> &'static str;

    /// Finds a value by name.
    ///
    /// # Errors
    /// [`Unknown`] with the closest names.
    fn find(name: &str) -> Result<Self, Unknown> {
        let mut all = Self::ALL.iter().copied();
        all.find(|value| value.name() == name).ok_or_else(|| {
            let names = Self::ALL.iter().map(|value| value.name());
            Unknown::new(Self::KIND, name, names)
        })
    }
}

impl Named for Precision {
    const KIND: &'static str = "precision";
    const ALL: &'static [Self] = &Precision::ALL;

    fn name(self) -> &'static str {
        Precision::name(self)
    }
}

impl Named for MatmulPrecision {
    const KIND: &'static str = "precision of matrix products";
    const ALL: &'static [Self] = &MatmulPrecision::ALL;

    fn name(self) -> &'static str {
        MatmulPrecision::name(self)
    }
}

impl Named for Variant {
    const KIND: &'static str = "variant";
    const ALL: &'static [Self] = &Variant::ALL;

    fn name(self) -> &'static str {
        Variant::name(self)
    }
}

impl Named for DeviceKind {
    const KIND: &'static str = "device";
    const ALL: &'static [Self] = &DeviceKind::ALL;

    fn name(self) -> &'static str {
        DeviceKind::name(self)
    }
}

/// Parses the value of a flag.
///
/// # Errors
/// The names that it may have.
pub fn flag<T: Named>(name: &str) -> Result<T, String> {
    T::find(name).map_err(|unknown| format!("expected {}", unknown.known.join(" or ")))
}

/// Writes the name, for `#[serde(with = "crate::named")]`.
///
/// # Errors
/// The serializer's errors.
pub fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.name())
}

/// Reads a name, for `#[serde(with = "crate::named")]`.
///
/// # Errors
/// An unknown name, with the closest ones.
pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let name = String::deserialize(deserializer)?;
    T::find(&name).map_err(D::Error::custom)
}

/// The same for values that may be left out: `#[serde(with = "crate::named::optional")]`.
pub mod optional {
    use super::{Deserialize, Deserializer, Named, Serializer};

    /// Writes the name, if there is one.
    ///
    /// # Errors
    /// The serializer's errors.
    pub fn serialize<T: Named, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(value.name()),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a name, if there is one.
    ///
    /// # Errors
    /// An unknown name, with the closest ones.
    pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        use serde::de::Error as _;
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| T::find(&name).map_err(D::Error::custom)).transpose()
    }
}
