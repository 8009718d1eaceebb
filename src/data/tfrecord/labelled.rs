//! Labelled pictures as `tf.train.Example`: feature names.

use super::Example;
use super::example::{FeatureError, Values, encode};

/// ImageNet's feature with the encoded picture, nearly always a JPEG.
pub const ENCODED: &str = "image/encoded";
/// ImageNet's feature with the class, from 1.
pub const LABEL: &str = "image/class/label";
/// Features of TensorFlow's small data sets: a PNG, and its class from 0.
const SMALL_ENCODED: &str = "image";
const SMALL_LABEL: &str = "label";

/// A picture and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelled<'a> {
    /// The encoded picture.
    pub encoded: &'a [u8],
    /// The label stored in the record.
    pub label: i64,
    /// The label of the first class: 1 in ImageNet, 0 in the smaller data sets.
    pub first: i64,
}

impl<'a> Labelled<'a> {
    /// Reads the picture from an example of either kind.
    ///
    /// # Errors
    /// A feature that is missing, of another type, or with more than one value.
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

/// Features of a picture in the official ImageNet files.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The encoded picture.
    pub encoded: &'a [u8],
    /// `JPEG` or `PNG`.
    pub format: &'a str,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Components per pixel in the file.
    pub channels: usize,
    /// File name.
    pub filename: &'a str,
    /// Class, from 1.
    pub label: i64,
    /// Synset of the class.
    pub synset: &'a str,
    /// Description of the class, if known.
    pub text: &'a str,
}

impl Picture<'_> {
    /// Encodes all features of the official files. Lists of bounding boxes are empty.
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

/// Encodes an example of a small data set: a PNG and its class, from 0.
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
