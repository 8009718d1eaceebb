//! Resizes images of a data set to the size that a network takes.

use hlo::Literal;

use super::{Dataset, mnist};

/// Maximum factor by which images are enlarged, in height and in width.
pub const LARGEST: usize = 2;

/// Converts images to the `dims` that a network takes. For `[height, width, 3]`, grey images get three equal channels,
/// and images are resized bilinearly (half-pixel centres, clamped borders, rounded to 0 to 255). Returns the set
/// unchanged if it already has these dimensions, cannot be converted, or would be enlarged by more than [`LARGEST`],
/// which is hardly intended.
pub fn fit(set: Dataset, dims: &[usize]) -> Dataset {
    let found = set.images.dims().get(1..).unwrap_or_default();
    let from = match *found {
        _ if found == dims => return set,
        [pixels] if pixels == mnist::SIDE * mnist::SIDE => [mnist::SIDE, mnist::SIDE, 1],
        [height, width, 3] => [height, width, 3],
        _ => return set,
    };
    let &[height, width, 3] = dims else { return set };
    if height > LARGEST * from[0] || width > LARGEST * from[1] {
        return set;
    }
    let images = set.images.bytes().chunks_exact(from.iter().product());
    let (rows, columns) = (taps(from[0], height), taps(from[1], width));
    let mut pixels = Vec::with_capacity(set.len() * height * width * 3);
    images.for_each(|image| resize(image, from, &rows, &columns, &mut pixels));
    Dataset {
        images: Literal::new(&[set.len(), height, width, 3], &pixels),
        ..set
    }
}

/// The two input pixels around an output pixel along one axis, and the weight of the second.
type Tap = ([usize; 2], f32);

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let tap = |i: usize| {
        let centre = (i as f32 + 0.5) * (from as f32 / to as f32) - 0.5;
        let first = centre.floor();
        let clamped = |at: f32| at.clamp(0.0, from as f32 - 1.0) as usize;
        ([clamped(first), clamped(first + 1.0)], centre - first)
    };
    (0..to).map(tap).collect()
}

/// Appends an image of `[height, width, channels]`, sampled at these rows and columns, in three channels.
fn resize(image: &[u8], [_, width, channels]: [usize; 3], rows: &[Tap], columns: &[Tap], pixels: &mut Vec<u8>) {
    for &(row, down) in rows {
        for &(column, right) in columns {
            let value = |colour: usize| {
                let at = |r: usize, c: usize| f32::from(image[(r * width + c) * channels + colour]);
                let across = |r: usize| at(r, column[0]) + right * (at(r, column[1]) - at(r, column[0]));
                (across(row[0]) + down * (across(row[1]) - across(row[0]))).round() as u8
            };
            pixels.extend(match channels {
                1 => [value(0); 3],
                _ => [0, 1, 2].map(value),
            });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(dims: &[usize], pixels: &[u8]) -> Dataset {
        Dataset {
            images: Literal::new(dims, pixels),
            labels: Literal::zeros(hlo::Shape::new(hlo::DType::S32, [dims[0]])),
            classes: 10,
        }
    }

    #[test]
    fn colours_are_interpolated_between_pixel_centres() {
        let images = [0, 10, 200, 100, 20, 100, 0, 0, 0, 200, 40, 0];
        let resized = fit(set(&[1, 2, 2, 3], &images), &[4, 4, 3]);
        assert_eq!(resized.images.dims(), [1, 4, 4, 3]);
        let colour = |c: usize| -> Vec<u8> { resized.images.bytes().iter().skip(c).step_by(3).copied().collect() };
        // Red is 0 100 / 0 200: a quarter and three quarters of the way between centres; the ends are clamped.
        assert_eq!(
            colour(0),
            [0, 25, 75, 100, 0, 31, 94, 125, 0, 44, 131, 175, 0, 50, 150, 200]
        );
        assert_eq!(colour(1)[..4], [10, 13, 18, 20]);
    }

    #[test]
    fn grey_images_become_colour_images() {
        let pixels: Vec<u8> = (0..2 * 784).map(|i| (i % 251) as u8).collect();
        let same_size = fit(set(&[2, 784], &pixels), &[28, 28, 3]);
        let repeated: Vec<u8> = pixels.iter().flat_map(|&p| [p; 3]).collect();
        assert_eq!(same_size.images, Literal::new(&[2, 28, 28, 3], &repeated));
        let larger = fit(set(&[2, 784], &pixels), &[32, 32, 3]);
        assert_eq!(larger.images.dims(), [2, 32, 32, 3]);
        let bytes = larger.images.bytes();
        assert!(bytes.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        // The first pixel's centre lies before the first centre of the smaller image.
        assert_eq!((bytes[0], bytes[3 * 1024]), (pixels[0], pixels[784]));
    }

    #[test]
    fn other_forms_stay() {
        let grey = set(&[1, 784], &[3; 784]);
        for dims in [&[784][..], &[28, 28], &[28, 28, 1], &[224, 224, 3]] {
            assert_eq!(fit(grey.clone(), dims), grey);
        }
    }
}
