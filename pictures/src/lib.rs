//! Decodes pictures, JPEG bit for bit as TensorFlow does and PNG, and resizes them to squares.
//!
//! TensorFlow's `decode_and_crop_jpeg` is libjpeg-turbo with the fast integer transform and smooth upsampling. It
//! decodes only the window: upsampling has no neighbours at the edges, so the result differs from a crop of the whole
//! picture. EXIF is ignored. Grey pictures become three equal channels, and four inks (CMYK, YCCK) are converted to
//! RGB.

mod antialiased;
mod bicubic;
mod budget;
mod jpeg;
mod png;
mod rows;
mod scans;

use budget::PIXELS;

pub use antialiased::Antialiased;
pub use bicubic::Bicubic;
pub use budget::{Budget, Permit};

/// Maximum of components times pixels: TensorFlow's limit.
pub const LARGEST_SAMPLES: usize = (1 << 29) - 1;
/// Maximum bytes for decoding one picture, and for all pictures decoded at a time: 512 MiB. A progressive JPEG takes 9
/// bytes per pixel, any other at most 7.
pub const LARGEST_DECODED: usize = 1 << 29;
/// Maximum scans of a JPEG: encoders write about ten, and each takes as long as another picture.
const MOST_SCANS: usize = 50;
/// Maximum of scans times pixels; ImageNet's largest picture has 60 million pixels.
const MOST_SCANNED: usize = 600_000_000;
/// Maximum bytes of an unpacked PNG: 66 million pixels of 3 bytes, where ImageNet's largest picture has 60 million pixels.
/// A PNG is decoded completely, whatever the window.
const MOST_UNPACKED: usize = 200_000_000;

const JPEG_START: &[u8] = &[0xff, 0xd8, 0xff];
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Why a picture could not be decoded. The caller knows which picture it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("no picture: it starts with {found:02x?}, expected a JPEG ([ff, d8, ff]) or a PNG ([89, 50, 4e, 47])")]
    Format { found: Vec<u8> },
    #[error("the JPEG is truncated: its data end before its picture does")]
    Truncated,
    #[error("damaged JPEG: {0}")]
    Damaged(String),
    #[error("damaged PNG: {0}")]
    DamagedPng(String),
    #[error(
        "a picture of {height} x {width} pixels and {components} components, expected at most {LARGEST_SAMPLES} \
         samples in all"
    )]
    TooLarge {
        height: usize,
        width: usize,
        components: usize,
    },
    #[error("decoding the picture takes {found} bytes, expected at most {LARGEST_DECODED}")]
    TooMuchMemory { found: usize },
    #[error(
        "a JPEG of {height} x {width} pixels in {scans} scans, expected at most {MOST_SCANS} scans, and {MOST_SCANNED} pixels in \
         all of them"
    )]
    TooManyScans { height: usize, width: usize, scans: usize },
    #[error("a PNG of {height} x {width} pixels, which unpacks to {bytes} bytes, expected at most {MOST_UNPACKED}")]
    TooMuchUnpacked { height: usize, width: usize, bytes: usize },
    #[error("a picture of {height} x {width} pixels in {bytes} bytes, expected at least {expected} bytes for so many")]
    TooFewBytes {
        height: usize,
        width: usize,
        bytes: usize,
        expected: usize,
    },
    #[error("{window}, expected a part of a picture of {height} x {width} pixels that is not empty")]
    Window {
        window: Window,
        height: usize,
        width: usize,
    },
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Inverse cosine transform for JPEGs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dct {
    /// Fast, low-precision integers (`INTEGER_FAST`): TensorFlow's default.
    Fast,
    /// Accurate integers (`INTEGER_ACCURATE`): the default of most other programs.
    Accurate,
}

/// Picture format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG: most of ImageNet.
    Jpeg,
    /// PNG: one picture of ImageNet, under a JPEG's name.
    Png,
}

impl Format {
    /// Detects the format by the first bytes.
    ///
    /// # Errors
    /// Bytes of neither format.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(JPEG_START) {
            Ok(Format::Jpeg)
        } else if bytes.starts_with(PNG_START) {
            Ok(Format::Png)
        } else {
            let found = bytes[..bytes.len().min(4)].to_vec();
            Err(Error::Format { found })
        }
    }

    /// Maximum pixels that a byte of a file can encode.
    fn pixels_per_byte(self) -> usize {
        match self {
            // A block of 64 pixels takes at least a bit.
            Format::Jpeg => 64 * 8,
            // A pixel takes at least a bit, and deflate compresses by at most 1032.
            Format::Png => 8 * 1032,
        }
    }
}

/// Header of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Components per pixel in the file: 1 for grey, 3 for most, 4 for CMYK or a PNG with alpha.
    pub components: usize,
}

impl Header {
    /// Reads the header of a picture without decoding pixels.
    ///
    /// # Errors
    /// A damaged header, or neither format.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        match Format::of(bytes)? {
            Format::Jpeg => jpeg::session(bytes, |session| Ok(session.header())),
            Format::Png => png::open(bytes).map(|(_, header)| header),
        }
    }

    /// The whole picture as a window.
    pub fn whole(&self) -> Window {
        Window {
            top: 0,
            left: 0,
            height: self.height,
            width: self.width,
        }
    }

    /// Checks the limits on allocations.
    fn check(&self, bytes: &[u8], format: Format) -> Result<()> {
        let &Header {
            height,
            width,
            components,
        } = self;
        let samples = height.checked_mul(width).and_then(|n| n.checked_mul(components));
        if samples.is_none_or(|n| n > LARGEST_SAMPLES) {
            return Err(Error::TooLarge {
                height,
                width,
                components,
            });
        }
        let (bytes, expected) = (bytes.len(), height * width / format.pixels_per_byte());
        if bytes < expected {
            return Err(Error::TooFewBytes {
                height,
                width,
                bytes,
                expected,
            });
        }
        Ok(())
    }

    /// Checks the limits on decoding time, and returns the bytes allocated to decode a window.
    fn cost(&self, bytes: &[u8], format: Format, window: Window) -> Result<usize> {
        let &Header {
            height,
            width,
            components,
        } = self;
        let whole = match format {
            Format::Jpeg => match scans::count(bytes) {
                scans if scans > MOST_SCANS || height * width * scans > MOST_SCANNED && scans > 1 => {
                    return Err(Error::TooManyScans { height, width, scans });
                }
                // A progressive decoder keeps all coefficients until the last scan.
                scans if scans > 1 => 2 * height * width * components,
                _ => 0,
            },
            Format::Png => height * width * components,
        };
        match whole + 3 * window.height * window.width {
            found if found > LARGEST_DECODED => Err(Error::TooMuchMemory { found }),
            found => Ok(found),
        }
    }

    /// Checks that the window lies within the picture.
    fn part(&self, window: Window) -> Result<Window> {
        let &Header { height, width, .. } = self;
        let within = |start: usize, length: usize, of: usize| length > 0 && start <= of && length <= of - start;
        if within(window.top, window.height, height) && within(window.left, window.width, width) {
            Ok(window)
        } else {
            Err(Error::Window { window, height, width })
        }
    }
}

/// A rectangular part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Height.
    pub height: usize,
    /// Width.
    pub width: usize,
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Window {
            top,
            left,
            height,
            width,
        } = self;
        write!(
            f,
            "a window of {height} x {width} pixels from row {top} and column {left}"
        )
    }
}

/// Decoded RGB pixels. Reuses its buffer.
#[derive(Debug, Default)]
pub struct Image {
    bytes: Vec<u8>,
    height: usize,
    width: usize,
    /// Extra pixels decoded at the start of each row.
    margin: usize,
    /// Permit for a large picture in the buffer.
    permit: Option<Permit>,
}

impl Image {
    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row, three bytes per pixel.
    pub fn row(&self, row: usize) -> &[u8] {
        let stride = 3 * (self.margin + self.width);
        &self.bytes[row * stride..][..stride][3 * self.margin..]
    }

    /// Frees the memory of a large picture. Call it after use, as other threads may wait for the budget.
    pub fn free_large(&mut self) {
        if self.permit.is_some() {
            *self = Image::default();
        }
    }

    fn reset(&mut self, height: usize, width: usize, margin: usize) {
        (self.height, self.width, self.margin) = (height, width, margin);
        self.bytes.resize(3 * height * (margin + width), 0);
    }

    /// A row including the extra pixels.
    fn row_mut(&mut self, row: usize) -> &mut [u8] {
        let stride = 3 * (self.margin + self.width);
        &mut self.bytes[row * stride..][..stride]
    }
}

/// Decodes the window that `choose` returns for the picture's header.
///
/// # Errors
/// A picture that is damaged, truncated before the end of the window, of neither format, larger than
/// [`LARGEST_SAMPLES`], or larger than its bytes can encode; a window outside it; or an error of `choose`.
pub fn decode<E: From<Error>>(
    bytes: &[u8],
    dct: Dct,
    choose: impl FnOnce(Header) -> std::result::Result<Window, E>,
    pixels: &mut Image,
) -> std::result::Result<(), E> {
    let format = Format::of(bytes)?;
    pixels.free_large();
    let chosen = |header: Header, pixels: &mut Image| -> std::result::Result<Window, E> {
        header.check(bytes, format)?;
        let window = header.part(choose(header)?)?;
        pixels.permit = PIXELS.take(header.cost(bytes, format, window)? as u64);
        Ok(window)
    };
    match format {
        Format::Jpeg => jpeg::session(bytes, |session| {
            let window = chosen(session.header(), pixels)?;
            Ok(session.read(window, dct, pixels)?)
        }),
        Format::Png => {
            let (reader, header) = png::open(bytes)?;
            png::check(&reader)?;
            let window = chosen(header, pixels)?;
            Ok(png::read(reader, window, pixels)?)
        }
    }
}
