//! From compressed pictures to what networks for ImageNet take: decoded, cropped, resized, and mirrored for training
//! (reference 4.2). The values are those of pixels, 0 to 255; the colours' means are taken off in the graph
//! ([`pixels`](super::pixels)).

mod antialiased;
mod bicubic;
mod crop;

use std::cell::RefCell;

use rand_chacha::ChaCha8Rng;

use self::antialiased::Antialiased;
use self::bicubic::Bicubic;
use super::picture::{self, Dct, Header, Pixels, Window};

pub use self::crop::{Bits, Bounds, WHOLE, central, distorted};

/// Why a picture could not be made ready. The caller knows which one it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error(transparent)]
    Picture(#[from] picture::Error),
    #[error("a picture of {height} x {width} pixels has no central part, expected at least 2 each way")]
    TooSmall { height: usize, width: usize },
    #[error("an object's bounds are {found:?}, expected shares of the picture, 0 to 1")]
    Bounds { found: Bounds },
    #[error("room for {found} numbers, expected {expected}, of one picture")]
    Room { found: usize, expected: usize },
}

/// This module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// How pictures are decoded and resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// As the original does, bit for bit: TensorFlow 1's fast decoding and its bicubic resizing, which averages nothing where
    /// a picture becomes smaller.
    #[default]
    Original,
    /// As is usual today: accurate decoding, and bicubic resizing that averages, with pixel centres halfway; rounded to bytes.
    Antialiased,
}

impl Kind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Kind); 2] = [("original", Kind::Original), ("antialiased", Kind::Antialiased)];

    fn dct(self) -> Dct {
        match self {
            Kind::Original => Dct::Fast,
            Kind::Antialiased => Dct::Accurate,
        }
    }
}

/// Makes pictures ready, one at a time, on any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocessor {
    /// Height and width of the result.
    pub size: usize,
    /// How.
    pub kind: Kind,
}

/// A thread's room, used again for each picture.
#[derive(Default)]
struct Room {
    pixels: Pixels,
    bicubic: Bicubic,
    antialiased: Antialiased,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl Preprocessor {
    /// Numbers of a picture: `f32[size, size, 3]`.
    pub fn values(&self) -> usize {
        self.size * self.size * 3
    }

    /// A picture (JPEG or PNG) as training sees it: a random part, mirrored every other time.
    ///
    /// `objects` are bounds around what should be seen; [`WHOLE`] is what the original says of every picture, and what none
    /// stands for. Where the whole picture was drawn, its central part is taken, unless the file does not have three
    /// components: the original compares its shape with that of the decoded picture.
    ///
    /// # Errors
    /// When the picture cannot be decoded ([`picture::decode`]), bounds are no shares, or `out` is not `f32[size, size, 3]`.
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

    /// A picture as evaluation sees it: its central part.
    ///
    /// # Errors
    /// As [`Preprocessor::train`], and when the picture has no central part.
    pub fn eval(&self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        self.part(bytes, |header| self.middle(header), false, out)
    }

    fn middle(&self, Header { height, width, .. }: Header) -> Result<Window> {
        match central(height, width, self.size) {
            Window { height: 0, .. } => Err(Error::TooSmall { height, width }),
            window => Ok(window),
        }
    }

    /// The part of a picture that `choose` says when it knows the size, resized.
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
            return Err(Error::Room { found, expected });
        }
        ROOM.with_borrow_mut(|room| {
            picture::decode(bytes, self.kind.dct(), choose, &mut room.pixels)?;
            match self.kind {
                Kind::Original => room.bicubic.resize(&room.pixels, self.size, mirrored, out),
                Kind::Antialiased => room.antialiased.resize(&room.pixels, self.size, mirrored, out),
            }
            room.pixels.free_large();
            Ok(())
        })
    }
}
