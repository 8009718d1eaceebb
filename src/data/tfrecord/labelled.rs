//! Pictures with classes as examples: which features they are.

use super::Example;
use super::example::{FeatureError, Values, encode};

/// Feature with a picture of ImageNet, a JPEG nearly always.
pub const ENCODED: &str = "image/encoded";
/// Feature with its class, from 1.
pub const LABEL: &str = "image/class/label";
/// Features of TensorFlow's smaller data sets: a PNG, and its class from 0.
const SMALL_ENCODED: &str = "image";
const SMALL_LABEL: &str = "label";

/// A picture and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelled<'a> {
    /// The picture's file.
    pub encoded: &'a [u8],
    /// Its class as the record has it.
    pub label: i64,
    /// The label of the first class: 1 in ImageNet, 0 in the smaller data sets.
    pub first: i64,
}

impl<'a> Labelled<'a> {
    /// The picture in an example of either kind.
    ///
    /// # Errors
    /// When a feature is missing or is not one value of its type.
    pub fn of(example: &Example<'a>) -> Result<Self, FeatureError> {
        let small = example.get(ENCODED).is_none() && example.get(SMALL_ENCODED).is_some();
        let (encoded, label, first) = match small {
            true => (SMALL_ENCODED, SMALL_LABEL, 0),
            false => (ENCODED, LABEL, 1),
        };
        Ok(Labelled {
            encoded: example.bytes(encoded)?,
            label: example.int64(label)?,
            first,
        })
    }
}

/// What the official ImageNet files tell of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The picture's file.
    pub encoded: &'a [u8],
    /// `JPEG` or `PNG`.
    pub format: &'a str,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Components of a pixel in the file.
    pub channels: usize,
    /// The file's name.
    pub filename: &'a str,
    /// Class, from 1.
    pub label: i64,
    /// Name of the class: its synset.
    pub synset: &'a str,
    /// The class in words, if they are known.
    pub text: &'a str,
}

impl Picture<'_> {
    /// The example, with all features of the official files. No boxes are known, so their lists are empty.
    pub fn encode(&self) -> Vec<u8> {
        use Values::{Bytes, Floats, Int64s};
        let colorspace = match self.channels {
            1 | 2 => "Grayscale",
            4 if self.format == "JPEG" => "CMYK",
            _ => "RGB",
        };
        encode(&[
            ("image/height", Int64s(&[self.height as i64])),
            ("image/width", Int64s(&[self.width as i64])),
            ("image/colorspace", Bytes(&[colorspace.as_bytes()])),
            ("image/channels", Int64s(&[self.channels as i64])),
            (LABEL, Int64s(&[self.label])),
            ("image/class/synset", Bytes(&[self.synset.as_bytes()])),
            ("image/class/text", Bytes(&[self.text.as_bytes()])),
            ("image/object/bbox/xmin", Floats(&[])),
            ("image/object/bbox/xmax", Floats(&[])),
            ("image/object/bbox/ymin", Floats(&[])),
            ("image/object/bbox/ymax", Floats(&[])),
            ("image/object/bbox/label", Int64s(&[])),
            ("image/format", Bytes(&[self.format.as_bytes()])),
            ("image/filename", Bytes(&[self.filename.as_bytes()])),
            (ENCODED, Bytes(&[self.encoded])),
        ])
    }
}

/// The example of a small data set: a PNG and its class, from 0.
pub fn encode_small(encoded: &[u8], label: i64) -> Vec<u8> {
    encode(&[
        (SMALL_ENCODED, Values::Bytes(&[encoded])),
        (SMALL_LABEL, Values::Int64s(&[label])),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_taken_back() {
        let picture = Picture {
            encoded: b"jpeg",
            format: "JPEG",
            height: 3,
            width: 4,
            channels: 4,
            filename: "n01440764_18.JPEG",
            label: 7,
            synset: "n01440764",
            text: "tench",
        };
        let bytes = picture.encode();
        let example = Example::parse(&bytes).unwrap();
        let (encoded, label) = (picture.encoded, 7);
        assert_eq!(
            Labelled::of(&example),
            Ok(Labelled {
                encoded,
                label,
                first: 1
            })
        );
        assert_eq!(example.features().count(), 15);
        assert_eq!(example.bytes("image/colorspace").unwrap(), b"CMYK");
        assert!(example.floats("image/object/bbox/ymax").unwrap().is_empty());

        let bytes = encode_small(b"png", 0);
        let small = Labelled::of(&Example::parse(&bytes).unwrap()).unwrap();
        assert_eq!((small.encoded, small.label, small.first), (&b"png"[..], 0, 0));
        let message = Labelled::of(&Example::default()).unwrap_err().to_string();
        assert!(message.contains("no feature 'image/encoded'"), "{message}");
    }
}
