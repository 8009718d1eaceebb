//! Preprocessing for ImageNet networks: decode, crop, resize, and mirror for training (reference 4.2). Values are
//! pixels from 0 to 255; the graph subtracts the channel means ([`pixels`](super::pixels)).

mod crop;

use std::cell::RefCell;

use rand_chacha::ChaCha8Rng;

use super::picture::{self, Antialiased, Bicubic, Dct, Header, Image, Window};
use crate::named::Named;

pub use self::crop::{Bits, Bounds, WHOLE, central, distorted};

/// Why a picture could not be preprocessed. The caller knows which picture it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error(transparent)]
    Picture(#[from] picture::Error),
    #[error("a picture of {height} x {width} pixels has no central part, expected at least 2 each way")]
    TooSmall { height: usize, width: usize },
    #[error("an object's bounds are {found:?}, expected shares of the picture, 0 to 1")]
    Bounds { found: Bounds },
    #[error("a buffer of {found} numbers, expected {expected} for one picture")]
    Length { found: usize, expected: usize },
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// How pictures are decoded and resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Bit for bit as the original: TensorFlow 1's fast decoding, and bicubic resizing without antialiasing.
    #[default]
    Original,
    /// Current practice: accurate decoding, and antialiased bicubic resizing with half-pixel centres, rounded to bytes.
    Antialiased,
}

impl Named for Kind {
    const KIND: &'static str = "preparation of pictures";
    const ALL: &'static [Self] = &[Kind::Original, Kind::Antialiased];

    fn name(self) -> &'static str {
        match self {
            Kind::Original => "original",
            Kind::Antialiased => "antialiased",
        }
    }
}

impl Kind {
    fn dct(self) -> Dct {
        match self {
            Kind::Original => Dct::Fast,
            Kind::Antialiased => Dct::Accurate,
        }
    }
}

/// Preprocesses pictures one at a time, from any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocessor {
    /// Height and width of the result, in pixels.
    pub size: usize,
    /// Decoding and resizing method.
    pub kind: Kind,
}

/// Buffers of a thread, reused for each picture.
#[derive(Default)]
struct Scratch {
    pixels: Image,
    bicubic: Bicubic,
    antialiased: Antialiased,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Preprocessor {
    /// Number of elements of a result: `f32[size, size, 3]`.
    pub fn values(&self) -> usize {
        self.size * self.size * 3
    }

    /// Preprocesses a picture (JPEG or PNG) for training: a random crop, mirrored half of the time.
    ///
    /// `objects` are bounding boxes of the objects to keep visible. An empty list means [`WHOLE`], which is what the
    /// original uses for every picture. If the crop is the whole picture, the central part is taken instead, but only
    /// for files with three components: the original compares the shape of the file with that of the decoded picture.
    ///
    /// # Errors
    /// A picture that cannot be decoded ([`picture::decode`]), bounds outside 0 to 1, or an `out` that is not
    /// `f32[size, size, 3]`.
    pub fn train(&self, bytes: &[u8], objects: &[Bounds], rng: &mut ChaCha8Rng, out: &mut [f32]) -> Result<()> {
        let objects = if objects.is_empty() { &[WHOLE] } else { objects };
        if let Some(&found) = objects.iter().find(|o| !o.iter().all(|x| (0.0..=1.0).contains(x))) {
            return Err(Error::Bounds { found });
        }
        let mirrored = rng.next_u32() >> 31 == 1;
        let part = |header: Header| {
            let window = distorted(header.height, header.width, objects, rng);
            if window == header.whole() && header.components == 3 {
                self.middle(header)
            } else {
                Ok(window)
            }
        };
        self.part(bytes, part, mirrored, out)
    }

    /// Preprocesses a picture for evaluation: its central crop.
    ///
    /// # Errors
    /// As [`Preprocessor::train`], and a picture that is too small for a central crop.
    pub fn eval(&self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        self.part(bytes, |header| self.middle(header), false, out)
    }

    fn middle(&self, Header { height, width, .. }: Header) -> Result<Window> {
        match central(height, width, self.size) {
            Window { height: 0, .. } => Err(Error::TooSmall { height, width }),
            window => Ok(window),
        }
    }

    /// Decodes and resizes the window that `choose` returns for the picture's header.
    ///
    /// # Errors
    /// As [`Preprocessor::train`].
    pub fn part(
        &self,
        bytes: &[u8],
        choose: impl FnOnce(Header) -> Result<Window>,
        mirrored: bool,
        out: &mut [f32],
    ) -> Result<()> {
        if out.len() != self.values() {
            let (found, expected) = (out.len(), self.values());
            return Err(Error::Length { found, expected });
        }
        SCRATCH.with_borrow_mut(|scratch| {
            picture::decode(bytes, self.kind.dct(), choose, &mut scratch.pixels)?;
            match self.kind {
                Kind::Original => scratch.bicubic.resize(&scratch.pixels, self.size, mirrored, out),
                Kind::Antialiased => scratch.antialiased.resize(&scratch.pixels, self.size, mirrored, out),
            }
            scratch.pixels.free_large();
            Ok(())
        })
    }
}
