//! `tf.train.Example`: named lists of byte strings, floats or integers.
//!
//! A custom parser instead of `prost`, so that pictures are not copied: the parsed example borrows from the record. It
//! accepts what TensorFlow accepts: packed and unpacked numbers, unknown fields, messages in parts; of duplicate keys
//! the last one wins. Output is canonical protobuf.

use std::fmt;

use super::wire::{Field, Fields, put_field, put_varint, varint};

pub use super::wire::Malformed;

/// Maximum features per example, as each takes memory. ImageNet's have 15.
const MAX_FEATURES: usize = 1 << 12;

// Field numbers of `Example`, `Features`, the map entries, and the three lists.
const FEATURES: u32 = 1;
const FEATURE: u32 = 1;
const KEY: u32 = 1;
const VALUE: u32 = 2;
const VALUES: u32 = 1;

/// Element kind of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Byte strings.
    Bytes = 1,
    /// `f32`.
    Floats = 2,
    /// `i64`.
    Int64s = 3,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Bytes, Kind::Floats, Kind::Int64s];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bytes => "bytes",
            Kind::Floats => "floats",
            Kind::Int64s => "integers",
        })
    }
}

/// A parsed example.
#[derive(Clone, Debug, Default)]
pub struct Example<'a> {
    features: Vec<(&'a str, Feature<'a>)>,
}

/// Why a feature does not have the requested form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum FeatureError {
    #[error("no feature '{key}'; there are {}", crate::data::listed(found))]
    Missing { key: String, found: Vec<String> },
    #[error("feature '{key}' holds {}, expected {expected}", found.map_or("nothing".to_owned(), |kind| kind.to_string()))]
    Kind {
        key: String,
        found: Option<Kind>,
        expected: Kind,
    },
    #[error("feature '{key}' holds {found} values, expected 1")]
    Count { key: String, found: usize },
}

impl<'a> Example<'a> {
    /// Parses a record's data completely, so that reading a feature later cannot fail.
    ///
    /// # Errors
    /// Data that protobuf does not accept as an `Example`, or more than 4096 features.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut example = Example::default();
        let whole = Fields::new(bytes);
        for field in whole {
            if let (FEATURES, Field::Bytes(features)) = field? {
                for field in whole.within(features) {
                    if let (FEATURE, Field::Bytes(entry)) = field? {
                        example.add(whole.within(entry))?;
                    }
                }
            }
        }
        Ok(example)
    }

    fn add(&mut self, entry: Fields<'a>) -> Result<(), Malformed> {
        if self.features.len() == MAX_FEATURES {
            return Err(entry.malformed("more than 4096 features"));
        }
        let (mut key, mut feature) = ("", Feature::default());
        for field in entry {
            match field? {
                (KEY, Field::Bytes(name)) => {
                    key = std::str::from_utf8(name).map_err(|_| entry.malformed("a key that is not UTF-8"))?;
                }
                (VALUE, Field::Bytes(value)) => feature.merge(entry.within(value))?,
                _ => {}
            }
        }
        self.features.push((key, feature));
        Ok(())
    }

    /// Features in record order. Of duplicate keys the last one wins.
    pub fn features(&self) -> impl Iterator<Item = (&'a str, &Feature<'a>)> {
        self.features.iter().map(|(key, feature)| (*key, feature))
    }

    /// Finds a feature by key.
    pub fn get(&self, key: &str) -> Option<&Feature<'a>> {
        let mut found = self.features.iter().rev();
        found.find(|(name, _)| *name == key).map(|(_, feature)| feature)
    }

    /// Returns the only byte string of feature `key`.
    ///
    /// # Errors
    /// A feature that is missing, of another kind, or with another number of values.
    pub fn bytes(&self, key: &str) -> Result<&'a [u8], FeatureError> {
        let feature = self.of_kind(key, Kind::Bytes)?;
        one(key, |take| feature.each_bytes(take))
    }

    /// Returns the only integer of feature `key`.
    ///
    /// # Errors
    /// As [`Example::bytes`].
    pub fn int64(&self, key: &str) -> Result<i64, FeatureError> {
        let feature = self.of_kind(key, Kind::Int64s)?;
        one(key, |take| feature.each_int64(take))
    }

    /// Returns the floats of feature `key`.
    ///
    /// # Errors
    /// A feature that is missing or of another kind.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>, FeatureError> {
        self.of_kind(key, Kind::Floats).map(Feature::floats)
    }

    fn of_kind(&self, key: &str, expected: Kind) -> Result<&Feature<'a>, FeatureError> {
        let Some(feature) = self.get(key) else {
            return Err(FeatureError::Missing {
                key: key.into(),
                found: self.features().map(|(name, _)| name.to_owned()).collect(),
            });
        };
        match feature.kind {
            Some(kind) if kind == expected => Ok(feature),
            found => Err(FeatureError::Kind {
                key: key.into(),
                found,
                expected,
            }),
        }
    }
}

/// Returns the only value of an iterator.
fn one<T>(key: &str, each: impl FnOnce(&mut dyn FnMut(T))) -> Result<T, FeatureError> {
    let (mut found, mut last) = (0, None);
    each(&mut |value| {
        found += 1;
        last = Some(value);
    });
    last.filter(|_| found == 1)
        .ok_or_else(|| FeatureError::Count { key: key.into(), found })
}

/// A list of values.
#[derive(Clone, Debug, Default)]
pub struct Feature<'a> {
    kind: Option<Kind>,
    /// The validated list, nearly always in one part.
    list: &'a [u8],
    more: Vec<&'a [u8]>,
}

impl<'a> Feature<'a> {
    /// Its element kind; `None` if the feature is empty.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        let mut count = 0;
        match self.kind {
            None => {}
            Some(Kind::Bytes) => self.each_bytes(&mut |_| count += 1),
            Some(Kind::Floats) => self.each_float(&mut |_| count += 1),
            Some(Kind::Int64s) => self.each_int64(&mut |_| count += 1),
        }
        count
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its byte strings; empty if it is of another kind.
    pub fn bytes(&self) -> Vec<&'a [u8]> {
        let mut values = vec![];
        self.each_bytes(&mut |value| values.push(value));
        values
    }

    /// Its floats; empty if it is of another kind.
    pub fn floats(&self) -> Vec<f32> {
        let mut values = vec![];
        self.each_float(&mut |value| values.push(value));
        values
    }

    /// Its integers; empty if it is of another kind.
    pub fn int64s(&self) -> Vec<i64> {
        let mut values = vec![];
        self.each_int64(&mut |value| values.push(value));
        values
    }

    /// The first `most` integers; empty if it is of another kind.
    pub fn first_int64s(&self, most: usize) -> Vec<i64> {
        let mut values = vec![];
        self.each_int64(&mut |value| values.extend((values.len() < most).then_some(value)));
        values
    }

    fn each_bytes(&self, take: &mut dyn FnMut(&'a [u8])) {
        self.each(Kind::Bytes, |field| {
            if let Field::Bytes(value) = field {
                take(value);
            }
        });
    }

    fn each_float(&self, take: &mut dyn FnMut(f32)) {
        self.each(Kind::Floats, |field| match field {
            Field::Fixed32(value) => take(f32::from_le_bytes(value)),
            Field::Bytes(packed) => packed
                .as_chunks()
                .0
                .iter()
                .for_each(|value| take(f32::from_le_bytes(*value))),
            _ => {}
        });
    }

    fn each_int64(&self, take: &mut dyn FnMut(i64)) {
        self.each(Kind::Int64s, |field| match field {
            Field::Varint(value) => take(value as i64),
            Field::Bytes(mut packed) => {
                while let Some(value) = varint(&mut packed) {
                    take(value as i64);
                }
            }
            _ => {}
        });
    }

    /// Iterates over the values of a list, packed ones in chunks. Cannot fail after [`check`].
    fn each(&self, kind: Kind, mut take: impl FnMut(Field<'a>)) {
        if self.kind == Some(kind) {
            let parts = std::iter::once(&self.list).chain(&self.more);
            let fields = parts.flat_map(|part| Fields::new(part)).flatten();
            fields
                .filter(|(number, _)| *number == VALUES)
                .for_each(|(_, field)| take(field));
        }
    }

    /// Merges a `Feature` message: the last kind wins, and lists of one kind are concatenated.
    fn merge(&mut self, message: Fields<'a>) -> Result<(), Malformed> {
        for field in message {
            let (number, Field::Bytes(list)) = field? else { continue };
            let Some(kind) = Kind::ALL.into_iter().find(|kind| *kind as u32 == number) else {
                continue;
            };
            check(kind, message.within(list))?;
            match self.kind == Some(kind) {
                true => self.more.push(list),
                false => {
                    *self = Feature {
                        kind: Some(kind),
                        list,
                        more: vec![],
                    }
                }
            }
        }
        Ok(())
    }
}

/// Refuses a list with unreadable values.
fn check(kind: Kind, list: Fields<'_>) -> Result<(), Malformed> {
    for field in list {
        let right = match (kind, field?) {
            (Kind::Floats, (VALUES, Field::Bytes(packed))) => packed.len() % 4 == 0,
            (Kind::Int64s, (VALUES, Field::Bytes(mut packed))) => {
                while varint(&mut packed).is_some() {}
                packed.is_empty()
            }
            _ => true,
        };
        if !right {
            return Err(list.malformed("packed numbers that end within one"));
        }
    }
    Ok(())
}

/// Values of a feature to write.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Byte strings.
    Bytes(&'a [&'a [u8]]),
    /// `f32`.
    Floats(&'a [f32]),
    /// `i64`.
    Int64s(&'a [i64]),
}

/// Encodes an `Example` with these features, in this order.
pub fn encode(features: &[(&str, Values<'_>)]) -> Vec<u8> {
    let mut entries = vec![];
    for (key, values) in features {
        let (kind, list) = values.list();
        let (mut feature, mut entry) = (vec![], vec![]);
        put_field(&mut feature, kind as u32, &list);
        put_field(&mut entry, KEY, key.as_bytes());
        put_field(&mut entry, VALUE, &feature);
        put_field(&mut entries, FEATURE, &entry);
    }
    let mut example = Vec::with_capacity(entries.len() + 11);
    put_field(&mut example, FEATURES, &entries);
    example
}

impl Values<'_> {
    fn list(&self) -> (Kind, Vec<u8>) {
        let mut list = vec![];
        let mut packed = |values: &[u8]| {
            if !values.is_empty() {
                put_field(&mut list, VALUES, values);
            }
        };
        let kind = match self {
            Values::Bytes(values) => {
                values.iter().for_each(|value| put_field(&mut list, VALUES, value));
                Kind::Bytes
            }
            Values::Floats(values) => {
                packed(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
                Kind::Floats
            }
            Values::Int64s(values) => {
                let mut numbers = vec![];
                values.iter().for_each(|&value| put_varint(&mut numbers, value as u64));
                packed(&numbers);
                Kind::Int64s
            }
        };
        (kind, list)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn field(number: u32, value: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        put_field(&mut out, number, value);
        out
    }

    /// Encodes a map entry with this `Feature` message.
    fn entry(key: &str, feature: &[u8]) -> Vec<u8> {
        field(FEATURE, &[field(KEY, key.as_bytes()), field(VALUE, feature)].concat())
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let bytes = encode(&[
            ("picture", Values::Bytes(&[b"\xff\xd8"])),
            ("labels", Values::Int64s(&[1, -1, i64::MIN, i64::MAX, 300])),
            ("box", Values::Floats(&[0.5, f32::NEG_INFINITY])),
            ("none", Values::Floats(&[])),
            ("label", Values::Int64s(&[1000])),
            ("texts", Values::Bytes(&[b"", b"b"])),
        ]);
        let example = Example::parse(&bytes).unwrap();
        assert_eq!(example.bytes("picture").unwrap(), b"\xff\xd8");
        assert_eq!(
            example.get("labels").unwrap().int64s(),
            [1, -1, i64::MIN, i64::MAX, 300]
        );
        assert_eq!(example.floats("box").unwrap(), [0.5, f32::NEG_INFINITY]);
        assert!(example.floats("none").unwrap().is_empty() && example.get("none").unwrap().is_empty());
        assert_eq!(example.int64("label").unwrap(), 1000);
        assert_eq!(example.get("texts").unwrap().bytes(), [&b""[..], b"b"]);
        assert_eq!(example.features().map(|(_, feature)| feature.len()).sum::<usize>(), 11);
        // No bytes are copied.
        assert!(
            bytes
                .as_ptr_range()
                .contains(&example.bytes("picture").unwrap().as_ptr())
        );
    }

    #[test]
    fn the_encoding_is_protobufs() {
        let want = [0x0a, 12, 0x0a, 10, 0x0a, 1, b'k', 0x12, 5, 0x1a, 3, 0x0a, 1, 7];
        assert_eq!(encode(&[("k", Values::Int64s(&[7]))]), want);
    }

    #[test]
    fn protobufs_liberties_are_taken() {
        // Unpacked and packed numbers with an unknown field between them.
        let unpacked = [&[0x08, 5, 0x08, 6][..], &[0x72, 1, 0], &field(1, &[7, 0x80, 1])].concat();
        let floats = [&[0x0d][..], &1f32.to_le_bytes(), &field(1, &2f32.to_le_bytes())].concat();
        let groups = [0x2b, 0x0b, 0x08, 1, 0x0c, 0x2c];
        let features = [
            entry("twice", &field(3, &[0x08, 1])),
            entry("floats", &field(2, &floats)),
            entry("twice", &[field(3, &unpacked), field(3, &[0x08, 9])].concat()),
            entry("other", &[field(3, &unpacked), field(1, &field(1, b"last"))].concat()),
            field(FEATURE, &[]),
        ];
        // `Features` in two parts, after an unknown group.
        let (first, second) = features.split_at(2);
        let bytes = [&groups[..], &field(1, &first.concat()), &field(1, &second.concat())].concat();
        let example = Example::parse(&bytes).unwrap();
        assert_eq!(example.get("twice").unwrap().int64s(), [5, 6, 7, 128, 9]);
        assert_eq!(example.floats("floats").unwrap(), [1.0, 2.0]);
        assert_eq!(example.bytes("other").unwrap(), b"last");
        assert_eq!(example.get("").unwrap().kind(), None);
        assert!(Example::parse(&[]).unwrap().get("twice").is_none());
    }

    #[test]
    fn malformed_examples_are_refused() {
        let nested = [0x2b].repeat(200);
        let cases: [(&[u8], &str); 9] = [
            (
                &[0x0a],
                "a field of no known type, or beyond the end of its message, at byte 0 of it",
            ),
            (&[0x0a, 3, 0x0a, 5, 0], "beyond the end of its message, at byte 2 of it"),
            (&[0x00], "no field, at byte 0"),
            (&[0x80; 11], "no field"),
            (&[0x0c], "a field of no known type"),
            (&[0x0e], "a field of no known type"),
            (&nested, "a field of no known type"),
            (
                &entry("k", &field(3, &field(1, &[0x80]))),
                "packed numbers that end within one",
            ),
            (
                &entry("k", &field(2, &field(1, &[0; 5]))),
                "packed numbers that end within one",
            ),
        ];
        for (i, (bytes, want)) in cases.into_iter().enumerate() {
            // The last ones are `Features` messages.
            let bytes = if i < 7 { bytes.to_vec() } else { field(1, bytes) };
            let message = Example::parse(&bytes).unwrap_err().to_string();
            assert!(message.contains(want), "{i}: {message}");
        }
        let key = field(1, &field(FEATURE, &field(KEY, &[0xff])));
        assert!(Example::parse(&key).unwrap_err().to_string().contains("UTF-8"));
        let many = field(1, &field(FEATURE, &[]).repeat(MAX_FEATURES + 1));
        assert!(Example::parse(&many).unwrap_err().to_string().contains("4096"));
    }

    #[test]
    fn features_of_another_kind_or_number_are_named() {
        let bytes = encode(&[("label", Values::Int64s(&[1, 2])), ("empty", Values::Bytes(&[]))]);
        let example = Example::parse(&bytes).unwrap();
        let message = |error: FeatureError| error.to_string();
        assert_eq!(
            message(example.bytes("picture").unwrap_err()),
            "no feature 'picture'; there are label, empty"
        );
        assert_eq!(
            message(example.bytes("label").unwrap_err()),
            "feature 'label' holds integers, expected bytes"
        );
        assert_eq!(
            message(example.int64("label").unwrap_err()),
            "feature 'label' holds 2 values, expected 1"
        );
        assert_eq!(
            message(example.bytes("empty").unwrap_err()),
            "feature 'empty' holds 0 values, expected 1"
        );
    }
}
