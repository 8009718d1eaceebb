//! Crop windows of ImageNet preprocessing (reference 4.2).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::data::picture::Window;

/// Padding of the central crop: a picture is this many pixels larger than a central crop of the network's input size.
const PADDING: usize = 32;

const LEAST_COVERED: f32 = 0.1;
const LEAST_ASPECT: f32 = 3.0 / 4.0;
const MOST_ASPECT: f32 = 4.0 / 3.0;
const LEAST_AREA: f32 = 0.08;
const MOST_AREA: f32 = 1.0;
const ATTEMPTS: usize = 10;

/// Bounding box of an object: minimum row and column, then maximum, as fractions of the height and width.
pub type Bounds = [f32; 4];

/// A box over the whole picture, which the original uses for every picture.
pub const WHOLE: Bounds = [0.0, 0.0, 1.0, 1.0];

/// The central square that evaluation uses at `size`. It is empty for a picture of one pixel.
pub fn central(height: usize, width: usize, size: usize) -> Window {
    let share = (size as f64 / (size + PADDING) as f64) as f32;
    let side = (share * height.min(width) as f32) as usize;
    Window {
        top: (height - side).div_ceil(2),
        left: (width - side).div_ceil(2),
        height: side,
        width: side,
    }
}

/// A source of random 32-bit words.
pub trait Bits {
    /// The next word.
    fn next_u32(&mut self) -> u32;

    /// Uniform in `[0, 1)`, with 23 random bits.
    fn uniform(&mut self) -> f32 {
        f32::from_bits(0x3f80_0000 | (self.next_u32() & 0x7f_ffff)) - 1.0
    }

    /// Uniform in `0..bound`, without bias: rejects words that would favour some values.
    fn below(&mut self, bound: u32) -> u32 {
        if bound.is_power_of_two() {
            return self.next_u32() & (bound - 1);
        }
        let excess = u32::MAX % bound + 1;
        loop {
            let word = self.next_u32();
            if word >= excess {
                return word % bound;
            }
        }
    }
}

impl Bits for ChaCha8Rng {
    fn next_u32(&mut self) -> u32 {
        Rng::next_u32(self)
    }
}

/// Draws a random window exactly as TensorFlow's `sample_distorted_bounding_box` does, word by word: the same random
/// bits give the same window.
///
/// With [`WHOLE`] as the object, windows below a tenth of the area are rejected. The largest possible offset is never
/// drawn. Returns the whole picture after ten failed attempts, or if no object covers a pixel.
pub fn distorted(height: usize, width: usize, objects: &[Bounds], bits: &mut impl Bits) -> Window {
    let objects: Vec<_> = objects.iter().map(|object| pixels(object, height, width)).collect();
    for _ in 0..ATTEMPTS {
        let aspect = bits.uniform() * (MOST_ASPECT - LEAST_ASPECT) + LEAST_ASPECT;
        if let Some(window) = attempt(height, width, aspect, bits)
            && objects.iter().any(|&object| is_covered(object, &window))
        {
            return window;
        }
    }
    Window {
        top: 0,
        left: 0,
        height,
        width,
    }
}

/// One attempt at a window of this aspect ratio. Fails if rounding makes it too small or too large.
///
/// The height is uniform between those of the minimum and the maximum area, limited so that the window fits the width.
fn attempt(height: usize, width: usize, aspect: f32, bits: &mut impl Bits) -> Option<Window> {
    let round = |x: f32| x.round_ties_even() as i64;
    let wide = |tall: i64| round(tall as f32 * aspect);
    let area = |tall: i64| (tall * wide(tall)) as f32;
    let (whole_height, whole_width) = (height as i64, width as i64);
    let [least, most] = [LEAST_AREA, MOST_AREA].map(|share| share * width as f32 * height as f32);

    let mut tallest = round((most / aspect).sqrt());
    if wide(tallest) > whole_width {
        let almost_half = 0.5 - f64::from(1e-7f32);
        tallest = ((width as f64 + almost_half) / f64::from(aspect)) as i64;
    }
    let tallest = tallest.min(whole_height);
    let mut tall = round((least / aspect).sqrt()).min(tallest);
    if tall < tallest {
        tall += i64::from(bits.below((tallest - tall + 1) as u32));
    }
    if area(tall) < least {
        tall += 1;
    }
    if area(tall) > most {
        tall -= 1;
    }
    let fits = (1..=whole_height).contains(&tall) && (1..=whole_width).contains(&wide(tall));
    if !fits || !(least..=most).contains(&area(tall)) {
        return None;
    }
    let mut offset = |inner: i64, outer: i64| match outer - inner {
        0 => 0,
        room => bits.below(room as u32) as usize,
    };
    Some(Window {
        top: offset(tall, whole_height),
        left: offset(wide(tall), whole_width),
        height: tall as usize,
        width: wide(tall) as usize,
    })
}

/// Row range, then column range; the ends are exclusive.
type Box = [[usize; 2]; 2];

fn pixels(bounds: &Bounds, height: usize, width: usize) -> Box {
    let at = |share: f32, length: usize| (share * length as f32) as usize;
    let [top, left, bottom, right] = *bounds;
    [
        [at(top, height), at(bottom, height)],
        [at(left, width), at(right, width)],
    ]
}

/// Whether the window covers enough of an object that covers at least one pixel.
fn is_covered([rows, columns]: Box, window: &Window) -> bool {
    let area = |[rows, columns]: Box| (rows[1].saturating_sub(rows[0]) * columns[1].saturating_sub(columns[0])) as f32;
    let common = |[start, end]: [usize; 2], first: usize, length: usize| [start.max(first), end.min(first + length)];
    let common = [
        common(rows, window.top, window.height),
        common(columns, window.left, window.width),
    ];
    let whole = area([rows, columns]);
    whole >= 1.0 && area(common) / whole >= LEAST_COVERED
}
