//! Pictures of masks as PNG files, still or animated.

use std::io;

use super::{Layer, fans};

/// Frames of one size, 3 bytes per pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Rows from the top, each pixel red, green, blue.
    pub frames: Vec<Vec<u8>>,
}

/// A matrix of shares to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Values in C order.
    pub values: Vec<f32>,
}

impl Grid {
    /// Connections from each pixel of the input to a fully connected layer; `None` if the layer has other inputs than the
    /// pixels of an image.
    pub fn inputs(input: &[usize], layer: &Layer, mask: &[u8]) -> Option<Self> {
        let &[inputs, _] = &layer.shape[..] else {
            return None;
        };
        let side = |pixels: usize| Some(pixels.isqrt()).filter(|side| side * side == pixels);
        let (rows, columns, channels) = match *input {
            [rows, columns, channels] => (rows, columns, channels),
            [rows, columns] => (rows, columns, 1),
            // An example that is flat is taken for a square image, grey or coloured.
            [all] => [1, 3]
                .into_iter()
                .find_map(|c| side(all / c).filter(|s| s * s * c == all).map(|s| (s, s, c)))?,
            _ => return None,
        };
        if rows * columns * channels != inputs || inputs == 0 {
            return None;
        }
        let pixels = fans(layer, mask).fan_out;
        let sums = pixels.chunks(channels).map(|pixel| pixel.iter().sum::<u32>() as f32);
        Some(Grid {
            rows,
            columns,
            values: sums.collect(),
        })
    }

    /// The mask as a matrix with a column per output, in blocks of weights so that no side is longer than `longest`. Values
    /// are shares of connections.
    pub fn mask(layer: &Layer, mask: &[u8], longest: usize) -> Self {
        let columns = layer.shape.last().copied().unwrap_or(1).max(1);
        let rows = mask.len() / columns;
        let step = |n: usize| n.div_ceil(longest.max(1)).max(1);
        let (down, across) = (step(rows), step(columns));
        let (height, width) = (rows.div_ceil(down), columns.div_ceil(across));
        let mut counts = vec![(0f32, 0f32); height * width];
        for (row, entries) in mask.chunks_exact(columns).enumerate() {
            for (column, &entry) in entries.iter().enumerate() {
                let (ones, all) = &mut counts[row / down * width + column / across];
                *ones += f32::from(entry);
                *all += 1.0;
            }
        }
        Grid {
            rows: height,
            columns: width,
            values: counts.into_iter().map(|(ones, all)| ones / all).collect(),
        }
    }

    /// The largest value.
    pub fn largest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }
}

/// Colours from none to the largest value: pale to dark, so that they survive grey printing.
const COLOURS: [[f32; 3]; 5] = [
    [247.0, 251.0, 255.0],
    [190.0, 215.0, 235.0],
    [107.0, 174.0, 214.0],
    [33.0, 113.0, 181.0],
    [8.0, 37.0, 87.0],
];

/// The colour of a share from 0 to 1.
fn colour(share: f32) -> [u8; 3] {
    let at = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f32;
    let below = (at as usize).min(COLOURS.len() - 2);
    let part = at - below as f32;
    [0, 1, 2].map(|c| (COLOURS[below][c] * (1.0 - part) + COLOURS[below + 1][c] * part).round() as u8)
}

/// Draws each list of grids as a frame, side by side, every value as a square of `scale` pixels, coloured by its share of
/// `largest`. All frames must have grids of the same sizes.
pub fn draw(frames: &[Vec<Grid>], largest: f32, scale: usize) -> Picture {
    /// Pixels between two grids.
    const GAP: usize = 8;
    let first = frames.first().map_or(&[][..], Vec::as_slice);
    let width: usize = first.iter().map(|grid| grid.columns * scale + GAP).sum();
    let width = width.saturating_sub(GAP).max(1);
    let height = first.iter().map(|grid| grid.rows * scale).max().unwrap_or(1).max(1);
    let draw = |grids: &Vec<Grid>| {
        let mut pixels = vec![255; width * height * 3];
        let mut left = 0;
        for grid in grids {
            for (i, &value) in grid.values.iter().enumerate() {
                let colour = colour(value / largest.max(f32::MIN_POSITIVE));
                let (y, x) = (i / grid.columns * scale, left + i % grid.columns * scale);
                for row in y..y + scale {
                    let start = (row * width + x) * 3;
                    let line = &mut pixels[start..start + 3 * scale];
                    line.chunks_exact_mut(3)
                        .for_each(|pixel| pixel.copy_from_slice(&colour));
                }
            }
            left += grid.columns * scale + GAP;
        }
        pixels
    };
    Picture {
        width: width as u32,
        height: height as u32,
        frames: frames.iter().map(draw).collect(),
    }
}

impl Picture {
    /// The picture as a PNG; with several frames an animation of `seconds` in all, which repeats.
    ///
    /// # Errors
    /// A picture without frames, or larger than the format allows.
    pub fn png(&self, seconds: f64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let frames = self.frames.len();
        if frames > 1 {
            encoder.set_animated(frames as u32, 0)?;
            let milliseconds = (1000.0 * seconds / frames as f64).clamp(20.0, 1000.0);
            encoder.set_frame_delay(milliseconds as u16, 1000)?;
        }
        let mut writer = encoder.write_header()?;
        for frame in &self.frames {
            writer.write_image_data(frame)?;
        }
        writer.finish()?;
        Ok(bytes)
    }
}
