//! PNG pictures, at which the original stops: decoded completely, 8 bits per channel, alpha dropped.

use std::io::Cursor;

use ::png::{ColorType, Decoder, DecodingError, Limits, Reader, Transformations};

use super::{Error, Header, Image, LARGEST_SAMPLES, MOST_UNPACKED, Result, Window};

type Open<'a> = Reader<Cursor<&'a [u8]>>;

/// Reads everything before the pixels.
pub(super) fn open(bytes: &[u8]) -> Result<(Open<'_>, Header)> {
    let limits = Limits { bytes: LARGEST_SAMPLES };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.ignore_checksums(false);
    // Compressed text and colour profiles are skipped, whatever their unpacked size.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().map_err(damaged)?;
    let header = Header {
        height: reader.info().height as usize,
        width: reader.info().width as usize,
        components: reader.output_color_type().0.samples(),
    };
    Ok((reader, header))
}

/// Checks the limit on decoding time: bytes in the file, before compression, or of the decoded picture, whichever are more.
pub(super) fn check(reader: &Open<'_>) -> Result<()> {
    let info = reader.info();
    let (height, width) = (info.height as usize, info.width as usize);
    let each = info.bytes_per_pixel().max(reader.output_color_type().0.samples());
    match height.saturating_mul(width).saturating_mul(each) {
        bytes if bytes > MOST_UNPACKED => Err(Error::TooMuchUnpacked { height, width, bytes }),
        _ => Ok(()),
    }
}

/// Reads the pixels of a window, which must lie within the picture.
pub(super) fn read(mut reader: Open<'_>, window: Window, pixels: &mut Image) -> Result<()> {
    let size = reader.output_buffer_size().unwrap_or(usize::MAX);
    if size > LARGEST_SAMPLES {
        return Err(Error::DamagedPng(format!("{size} bytes of pixels")));
    }
    let mut frame = vec![0; size];
    let info = reader.next_frame(&mut frame).map_err(damaged)?;
    let channels = info.color_type.samples();
    let grey = matches!(info.color_type, ColorType::Grayscale | ColorType::GrayscaleAlpha);
    pixels.reset(window.height, window.width, 0);
    for row in 0..window.height {
        let from = &frame[(window.top + row) * info.line_size..][..info.line_size];
        let from = from[window.left * channels..].chunks_exact(channels);
        for (to, from) in pixels.row_mut(row).chunks_exact_mut(3).zip(from) {
            to.copy_from_slice(&if grey {
                [from[0]; 3]
            } else {
                [from[0], from[1], from[2]]
            });
        }
    }
    Ok(())
}

fn damaged(error: DecodingError) -> Error {
    Error::DamagedPng(error.to_string())
}
