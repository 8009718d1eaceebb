//! Bindings to libjpeg: one session per picture, with TensorFlow's settings and errors as values.
//!
//! Soundness of the `unsafe` blocks: the structures of a session live in one stack frame ([`session`]) and
//! point at one another only within it. Fatal errors of the library unwind from [`fail`] through C frames compiled for
//! unwinding, up to the session's `catch_unwind`, which then frees what was allocated. The library writes only to rows
//! of its own output length.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, J_DCT_METHOD, JPEG_LIB_VERSION, jpeg_CreateDecompress, jpeg_calc_output_dimensions,
    jpeg_common_struct, jpeg_crop_scanline, jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr,
    jpeg_finish_decompress, jpeg_read_header, jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_skip_scanlines,
    jpeg_source_mgr, jpeg_start_decompress, jpeg_std_error,
};

use super::{Dct, Error, Header, Image, Result, Window, scans};

/// The library's success value, also of `jpeg_read_header`.
const TRUE: c_int = 1;
/// Size of the message buffer, including the terminating zero (`JMSG_LENGTH_MAX`).
const MESSAGE_BYTES: usize = 200;

/// Panic payload of [`fail`]: the library's message.
struct Fatal(String);

/// A picture with a decoded header.
pub(super) struct Session<'a> {
    info: &'a mut jpeg_decompress_struct,
    bytes: &'a [u8],
}

/// Reads the header of `bytes` and passes the decoder to `body`.
pub(super) fn session<R, E: From<Error>>(
    bytes: &[u8],
    body: impl FnOnce(&mut Session<'_>) -> std::result::Result<R, E>,
) -> std::result::Result<R, E> {
    // SAFETY: zero is a value of each field: numbers, null pointers, absent functions, first variants.
    let (mut errors, mut info): (jpeg_error_mgr, jpeg_decompress_struct) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut source = jpeg_source_mgr {
        next_input_byte: bytes.as_ptr(),
        bytes_in_buffer: bytes.len(),
        init_source: Some(nothing),
        fill_input_buffer: Some(exhausted),
        skip_input_data: Some(skip),
        resync_to_restart: Some(jpeg_resync_to_restart),
        term_source: Some(nothing),
    };
    // SAFETY: fills the structure with the library's functions, two of which are then ours.
    unsafe { jpeg_std_error(&mut errors) };
    errors.error_exit = Some(fail);
    errors.output_message = Some(silent);
    info.common.err = &raw mut errors;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `info` has its error handler and is otherwise zero, as creation wants it; `errors`, `source` and `bytes`
        // outlive it.
        unsafe {
            jpeg_CreateDecompress(&mut info, JPEG_LIB_VERSION, size_of::<jpeg_decompress_struct>());
            info.src = &raw mut source;
            if jpeg_read_header(&mut info, TRUE) != TRUE {
                return Err(Error::Truncated.into());
            }
        }
        body(&mut Session { info: &mut info, bytes })
    }));
    // SAFETY: created, or still zero, which the library takes for nothing to be done.
    unsafe { jpeg_destroy_decompress(&mut info) };
    outcome.unwrap_or_else(|payload: Box<dyn Any + Send>| match payload.downcast::<Fatal>() {
        Ok(fatal) => Err(Error::Damaged(fatal.0).into()),
        Err(other) => resume_unwind(other),
    })
}

impl Session<'_> {
    /// Size in pixels, and number of components in the file.
    pub(super) fn header(&self) -> Header {
        Header {
            height: self.info.image_height as usize,
            width: self.info.image_width as usize,
            components: self.info.num_components.max(0) as usize,
        }
    }

    /// Decodes a window, which must lie within the picture, to RGB.
    pub(super) fn read(&mut self, window: Window, dct: Dct, pixels: &mut Image) -> Result<()> {
        use J_COLOR_SPACE::{JCS_CMYK, JCS_RGB, JCS_YCCK};
        let info = &mut *self.info;
        let four_colours = matches!(info.jpeg_color_space, JCS_CMYK | JCS_YCCK);
        info.out_color_space = if four_colours { JCS_CMYK } else { JCS_RGB };
        info.do_fancy_upsampling = TRUE;
        info.dct_method = match dct {
            Dct::Fast => J_DCT_METHOD::JDCT_IFAST,
            Dct::Accurate => J_DCT_METHOD::JDCT_ISLOW,
        };
        let (mut left, mut width) = (window.left as u32, window.width as u32);
        // SAFETY: the header has been read, which is the state these calls want, in this order.
        unsafe {
            jpeg_calc_output_dimensions(info);
            if jpeg_start_decompress(info) != TRUE {
                return Err(Error::Truncated);
            }
            jpeg_crop_scanline(info, &mut left, &mut width);
            if jpeg_skip_scanlines(info, window.top as u32) != window.top as u32 {
                return Err(Error::Truncated);
            }
        }
        // The library starts further left, at a block boundary.
        let width = info.output_width as usize;
        pixels.reset(window.height, window.width, width - window.width);
        let mut four = if four_colours { vec![0; width * 4] } else { vec![] };
        // Markers are scanned here: saving them in the library takes quadratic time.
        let adobe = four_colours && scans::has_adobe(self.bytes);
        for row in 0..window.height {
            let row = pixels.row_mut(row);
            if four_colours {
                self.read_row(&mut four)?;
                to_rgb(&four, adobe, row);
            } else {
                self.read_row(row)?;
            }
        }
        if self.info.output_scanline == self.info.output_height {
            // Data after the last row may be wrong too. TensorFlow fails at errors there, but not at missing data.
            // SAFETY: every row has been read, which is the state this call wants.
            unsafe { jpeg_finish_decompress(self.info) };
        }
        Ok(())
    }

    /// Decodes the next row, from the library's first column to the end of the window.
    fn read_row(&mut self, row: &mut [u8]) -> Result<()> {
        let info = &mut *self.info;
        let bytes = info.output_width as usize * info.output_components.max(0) as usize;
        assert_eq!(row.len(), bytes, "room for a row");
        let mut rows = [row.as_mut_ptr()];
        // SAFETY: decompression has begun, and there is room for the one row asked for, as was just seen.
        match unsafe { jpeg_read_scanlines(info, rows.as_mut_ptr(), 1) } {
            0 => Err(Error::Truncated),
            _ => Ok(()),
        }
    }
}

/// Converts CMYK to RGB, with TensorFlow's rounding.
fn to_rgb(four: &[u8], adobe: bool, rgb: &mut [u8]) {
    for (from, to) in four.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let ink = |i: usize| match adobe {
            true => u16::from(from[i]),
            false => u16::from(255 - from[i]),
        };
        for (i, to) in to.iter_mut().enumerate() {
            *to = (ink(i) * ink(3) / 255) as u8;
        }
    }
}

/// Handles the library's fatal errors. Must not return.
unsafe extern "C-unwind" fn fail(info: &mut jpeg_common_struct) {
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut c_char);
    let mut text = [0 as c_char; MESSAGE_BYTES];
    // SAFETY: the session's error handler, whose function for messages is the library's own. That is declared with a buffer
    // that is too short and constant; `Format` is what it is in C. It ends the message with a zero.
    let text = unsafe {
        if let Some(format) = (*info.err).format_message {
            let format: Format = mem::transmute(format);
            format(info, text.as_mut_ptr());
        }
        CStr::from_ptr(text.as_ptr())
    };
    // Unwinds without calling the panic hook.
    resume_unwind(Box::new(Fatal(text.to_string_lossy().into_owned())));
}

/// Ignores warnings, as TensorFlow does.
unsafe extern "C-unwind" fn silent(_: &mut jpeg_common_struct) {}

unsafe extern "C-unwind" fn nothing(_: &mut jpeg_decompress_struct) {}

/// Input exhausted: suspends the decoder, as TensorFlow's source does, unless it cannot be suspended.
unsafe extern "C-unwind" fn exhausted(info: &mut jpeg_decompress_struct) -> c_int {
    // SAFETY: the session's source.
    if unsafe { (*info.src).bytes_in_buffer } > 0 {
        return 0;
    }
    resume_unwind(Box::new(Fatal("the file ends within its data".into())));
}

unsafe extern "C-unwind" fn skip(info: &mut jpeg_decompress_struct, bytes: c_long) {
    // SAFETY: the session's source, moved on within its bytes.
    unsafe {
        let source = &mut *info.src;
        let bytes = usize::try_from(bytes).unwrap_or(0).min(source.bytes_in_buffer);
        source.next_input_byte = source.next_input_byte.add(bytes);
        source.bytes_in_buffer -= bytes;
    }
}
