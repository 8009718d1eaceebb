//! Graphs that convert a batch of pixels to network inputs on the device.

use hlo::random::Key;
use hlo::{DType, Literal, Shape, Tensor};
use models::{Driver, Family};

use crate::named::Named;
use sparse::rng;

/// Preprocessing of the original's three drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preprocessing {
    /// Scales pixels by 1/255 (reference 4.4).
    Mnist,
    /// Standardises each image by its own mean and standard deviation, with the bits of the original. For training,
    /// then pads by 4 with mirrored edges, crops to the original size and flips at random (reference 4.3).
    Cifar,
    /// Subtracts ImageNet's mean from each channel and multiplies by `1 / std` in float32, as the original's session
    /// computes it (reference 2.2, 4.2).
    ImageNet,
    /// Leaves the numbers as they are.
    None,
}

/// Padding on each side of an image before the crop, in pixels.
const PADDING: usize = 4;

/// Means and standard deviations of ImageNet's RGB channels, as fractions of the maximum value.
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// Lanes of a sum of pixels, the halves that they are folded by, and the most rows of lanes that a pass of the loop adds.
const LANES: usize = 8;
const FOLDS: [usize; 3] = [4, 2, 1];
const ROWS_PER_PASS: usize = 32;

/// A factor that takes every value of a picture below the standard deviation: none of `n` values is further from the mean
/// than `sqrt(n)` deviations.
const FAR_BELOW: f64 = 1.0 / (1 << 16) as f64;

/// Factor of a pixel of MNIST.
const MNIST_SCALE: f32 = 1.0 / 255.0;

/// The mean of each colour of ImageNet, and the factor after its subtraction.
fn imagenet() -> [[f32; 3]; 2] {
    let mean = IMAGENET_MEAN.map(|share| (255.0 * share) as f32);
    let scale = IMAGENET_STD.map(|share| ((255.0 * share) as f32).recip());
    [mean, scale]
}

impl Named for Preprocessing {
    const KIND: &'static str = "preprocessing";
    const ALL: &'static [Self] = &[
        Preprocessing::Mnist,
        Preprocessing::Cifar,
        Preprocessing::ImageNet,
        Preprocessing::None,
    ];

    fn name(self) -> &'static str {
        match self {
            Preprocessing::Mnist => "mnist",
            Preprocessing::Cifar => "cifar",
            Preprocessing::ImageNet => "imagenet",
            Preprocessing::None => "none",
        }
    }
}

impl Preprocessing {
    /// The preprocessing of the driver that trains networks of this family.
    pub fn of(family: &Family) -> Self {
        match family.recipe.driver {
            Driver::Mnist => Preprocessing::Mnist,
            Driver::Cifar => Preprocessing::Cifar,
            Driver::ImageNet => Preprocessing::ImageNet,
        }
    }

    /// Factor of a pixel of [`Preprocessing::Mnist`].
    pub(crate) fn scale(self) -> f32 {
        MNIST_SCALE
    }

    /// The mean of each colour that [`Preprocessing::ImageNet`] subtracts, and the factor that it then applies.
    pub(crate) fn affine(self) -> [[f32; 3]; 2] {
        imagenet()
    }

    /// Whether training augments at random. (ImageNet's images are cropped and flipped when they are decoded.)
    pub fn is_random(self) -> bool {
        self == Preprocessing::Cifar
    }

    /// Whether it applies to examples of these dimensions.
    pub fn takes(self, dims: &[usize]) -> bool {
        match self {
            Preprocessing::Mnist | Preprocessing::None => true,
            Preprocessing::Cifar => matches!(dims, &[height, width, _] if height.min(width) >= PADDING),
            Preprocessing::ImageNet => matches!(dims, [_, _, 3]),
        }
    }

    /// Builds `f32[batch, ..]` from `pixels` `u8[batch, ..]` for evaluation.
    pub fn apply(self, pixels: Tensor<'_>) -> Tensor<'_> {
        let images = pixels.convert(DType::F32);
        match self {
            Preprocessing::Mnist => images * f64::from(MNIST_SCALE),
            Preprocessing::Cifar => standardise(images),
            Preprocessing::ImageNet => {
                let colours = |values: [f32; 3]| images.graph().constant(Literal::new(&[3], &values));
                let [mean, scale] = imagenet();
                (images - colours(mean)) * colours(scale)
            }
            Preprocessing::None => images,
        }
    }

    /// As [`Preprocessing::apply`], on the host, of one image from 0 to 255, colours last.
    pub fn apply_on_host(self, image: &mut [f32]) {
        match self {
            Preprocessing::Mnist => image.iter_mut().for_each(|pixel| *pixel *= MNIST_SCALE),
            Preprocessing::Cifar => {
                let mean = mean_on_host(image);
                image.iter_mut().for_each(|pixel| *pixel -= mean);
                let squares: Vec<f32> = image.iter().map(|&pixel| pixel * pixel).collect();
                let deviation = mean_on_host(&squares).sqrt().max(least_deviation(image.len()));
                image.iter_mut().for_each(|pixel| *pixel /= deviation);
            }
            Preprocessing::ImageNet => {
                // 16 pixels at a time, which the compiler turns into vectors.
                let [mean, scale] = imagenet().map(|of_colour| std::array::from_fn::<f32, 48, _>(|i| of_colour[i % 3]));
                for pixels in image.chunks_mut(48) {
                    let each = pixels.iter_mut().zip(mean.iter().zip(&scale));
                    each.for_each(|(value, (mean, scale))| *value = (*value - mean) * scale);
                }
            }
            Preprocessing::None => {}
        }
    }

    /// As [`Preprocessing::apply`], for training: augmented with the random numbers of `key` if
    /// [`is_random`](Self::is_random).
    pub fn augment<'g>(self, pixels: Tensor<'g>, key: Key<'g>) -> Tensor<'g> {
        let images = self.apply(pixels);
        match self {
            Preprocessing::Cifar => Crop::draw(key, images.dims()[0]).of(images),
            Preprocessing::Mnist | Preprocessing::ImageNet | Preprocessing::None => images,
        }
    }
}

/// Standardises each image. The standard deviation is at least that of an image with a single differing pixel.
fn standardise<'g>(images: Tensor<'g>) -> Tensor<'g> {
    let dims = images.dims();
    let of_image = |value: Tensor<'g>| value.broadcast(&dims, &[0]);
    let centred = images - of_image(mean(images));
    // The minimum and the second maximum change no number: the one keeps squares from being added before they are rounded,
    // the other the division from becoming a product with the reciprocal of the deviation.
    let squares = (centred * centred).min(f64::from(f32::MAX));
    let least = least_deviation(dims[1..].iter().product());
    let deviation = of_image(mean(squares).sqrt().max(f64::from(least)));
    centred / deviation.max(centred * FAR_BELOW)
}

/// Lower bound of the standard deviation of so many values.
fn least_deviation(elements: usize) -> f32 {
    (elements as f32).sqrt().recip()
}

/// Mean of each image, in the order of TensorFlow's sums on processors with AVX: lane `i` adds the values `i`, `i + 8`,
/// …, then the lanes are added by halves, and the values that fill no row of lanes come last.
///
/// A loop, since XLA reorders reductions. It also counts the values, since XLA multiplies by the reciprocal of a constant
/// or of a scalar.
fn mean<'g>(images: Tensor<'g>) -> Tensor<'g> {
    let g = images.graph();
    let batch = images.dims()[0];
    let elements = images.dims()[1..].iter().product();
    let rows = elements / LANES;
    let values = images.reshape(&[batch, elements]);
    let packed = values.slice(&[0, 0], &[batch, rows * LANES]);
    let packed = packed.reshape(&[batch, rows, LANES]);
    let each = (1..=ROWS_PER_PASS)
        .rev()
        .find(|each| rows.is_multiple_of(*each))
        .unwrap_or(1);
    let zeros = |dims: &[usize]| g.full(&Shape::new(DType::F32, dims), 0.0);
    let start = [zeros(&[batch, LANES]), zeros(&[batch]), packed];
    let sums = g.repeat(g.scalar((rows / each) as i32), &start, |g, pass, state| {
        let zero = g.scalar(0i32);
        let part = state[2].dynamic_slice(&[zero, pass * each as f64, zero], &[batch, each, LANES]);
        let row = |i| part.slice(&[0, i, 0], &[batch, i + 1, LANES]).reshape(&[batch, LANES]);
        let lanes = (0..each).fold(state[0], |lanes, i| lanes + row(i));
        vec![lanes, state[1] + (each * LANES) as f64, state[2]]
    });
    let mut lanes = sums[0];
    for half in FOLDS {
        lanes = lanes.slice(&[0, 0], &[batch, half]) + lanes.slice(&[0, half], &[batch, 2 * half]);
    }
    let rest = (rows * LANES..elements).map(|i| values.slice(&[0, i], &[batch, i + 1]));
    let sum = rest.reduce(|sum, value| sum + value).map_or(lanes, |rest| rest + lanes);
    let count = sums[1] + (elements - rows * LANES) as f64;
    sum.reshape(&[batch]) / count
}

/// As [`mean`], of one image on the host.
fn mean_on_host(image: &[f32]) -> f32 {
    let (rows, rest) = image.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for row in rows {
        lanes.iter_mut().zip(row).for_each(|(lane, value)| *lane += value);
    }
    for half in FOLDS {
        (0..half).for_each(|i| lanes[i] += lanes[half + i]);
    }
    let rest = rest.iter().fold(0.0, |sum, value| sum + value);
    (rest + lanes[0]) / image.len() as f32
}

/// Crop position after mirrored padding, and flip, for each image of a batch.
pub struct Crop<'g> {
    /// First row, `s32[batch]`, from 0 to twice the padding.
    pub top: Tensor<'g>,
    /// First column, `s32[batch]`, from 0 to twice the padding.
    pub left: Tensor<'g>,
    /// Whether left and right are swapped, `pred[batch]`.
    pub flipped: Tensor<'g>,
}

impl<'g> Crop<'g> {
    /// Uniform offsets and fair flips, a function of the key and the position in the batch.
    pub fn draw(key: Key<'g>, batch: usize) -> Self {
        let [top, left] = key.fold(rng::hash64("crop", "")).bits(&[batch]);
        let [flip, _] = key.fold(rng::hash64("flip", "")).bits(&[batch]);
        // The product of 24 bits and the number of offsets fits into a word; its upper part is the offset.
        let offsets = (2 * PADDING + 1) as f64;
        let offset = |bits: Tensor<'g>| {
            let scaled = bits.shift_right_logical(8.0) * offsets;
            scaled.shift_right_logical(24.0).convert(DType::S32)
        };
        Crop {
            top: offset(top),
            left: offset(left),
            flipped: flip.shift_right_logical(31.0).eq(1.0),
        }
    }

    /// Returns the cropped images in their original size, `[batch, height, width, channels]`. Gathers each pixel from
    /// its source instead of padding.
    pub fn of(&self, images: Tensor<'g>) -> Tensor<'g> {
        let dims = images.dims();
        let &[batch, height, width, colours] = &dims[..] else {
            return images;
        };
        let g = images.graph();
        let count = |axis| g.iota(Shape::new(DType::S32, [batch, height, width]), axis);
        let of_image = |value: Tensor<'g>| value.broadcast(&[batch, height, width], &[0]);
        let column = count(2);
        let column = of_image(self.flipped).select(width as f64 - 1.0 - column, column);
        let row = mirrored(count(1) + of_image(self.top), height);
        let column = mirrored(column + of_image(self.left), width);
        let from = (count(0) * height as f64 + row) * width as f64 + column;
        let pixels = batch * height * width;
        let looked_up = images.reshape(&[pixels, colours]).take_rows(from.reshape(&[pixels]));
        looked_up.reshape(&dims)
    }
}

/// Source row, out of `rows`, of a row of the padded image. Mirroring repeats the first and the last row.
fn mirrored(padded: Tensor<'_>, rows: usize) -> Tensor<'_> {
    let row = padded - PADDING as f64;
    let row = row.lt(0.0).select(-1.0 - row, row);
    let last = rows as f64 - 1.0;
    row.gt(last).select(2.0 * last + 1.0 - row, row)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hlo::Graph;

    /// Evaluates a graph without inputs.
    fn evaluate(build: impl for<'g> FnOnce(&'g Graph) -> Vec<Tensor<'g>>) -> Vec<Literal> {
        let g = Graph::new("pixels");
        let outputs: Vec<_> = build(&g).into_iter().map(|t| t.output()).collect();
        g.build(&outputs).unwrap().evaluate(&[]).unwrap()
    }

    fn key(g: &Graph, seed: u32) -> Key<'_> {
        Key::new(g.constant(Literal::new(&[2], &[seed, 0])))
    }

    /// The reference's definition (4.3), pixel by pixel: pad, crop, flip.
    fn cropped(image: &[f32], side: usize, [top, left]: [i32; 2], flipped: bool) -> Vec<f32> {
        let padded_side = side + 2 * PADDING;
        let inner = |at: usize| match at.checked_sub(PADDING) {
            None => PADDING - 1 - at,
            Some(at) if at < side => at,
            Some(at) => 2 * side - 1 - at,
        };
        let padded: Vec<Vec<f32>> = (0..padded_side)
            .map(|row| {
                (0..padded_side)
                    .map(|column| image[inner(row) * side + inner(column)])
                    .collect()
            })
            .collect();
        let mut rows: Vec<Vec<f32>> = padded[top as usize..][..side]
            .iter()
            .map(|row| row[left as usize..][..side].to_vec())
            .collect();
        if flipped {
            rows.iter_mut().for_each(|row| row.reverse());
        }
        rows.concat()
    }

    #[test]
    fn the_host_and_graphs_prepare_images_within_rounding() {
        for &way in Preprocessing::ALL {
            let pixels: Vec<u8> = (0..2 * 6 * 5 * 3).map(|i| (i * i % 251) as u8).collect();
            let mut images: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel)).collect();
            // One without any contrast.
            images[..90].fill(7.0);
            let graph = evaluate(|g| vec![way.apply(g.constant(Literal::new(&[2, 6, 5, 3], &images)))]);
            images.chunks_mut(90).for_each(|image| way.apply_on_host(image));
            let expected: Vec<f32> = graph[0].to_vec().unwrap();
            for (a, b) in images.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{way:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn crops_are_those_of_the_padded_image() {
        let (batch, side) = (40, 6);
        let pixels: Vec<f32> = (0..batch * side * side).map(|i| i as f32).collect();
        let results = evaluate(|g| {
            let crop = Crop::draw(key(g, 3), batch);
            let images = g.constant(Literal::new(&[batch, side, side, 1], &pixels));
            vec![crop.top, crop.left, crop.flipped, crop.of(images)]
        });
        let [top, left] = [0, 1].map(|i| results[i].to_vec::<i32>().unwrap());
        let flipped = results[2].to_bools().unwrap();
        let got: Vec<f32> = results[3].to_vec().unwrap();
        for i in 0..batch {
            let image = &pixels[i * side * side..][..side * side];
            let want = cropped(image, side, [top[i], left[i]], flipped[i]);
            assert_eq!(got[i * side * side..][..side * side], want, "{i}");
        }
    }

    #[test]
    fn every_offset_and_flip_is_as_likely_as_any_other() {
        let n = 9000;
        let results = evaluate(|g| {
            let crop = Crop::draw(key(g, 1), n);
            let other = Crop::draw(key(g, 2), n);
            vec![crop.top, crop.left, crop.flipped, other.top]
        });
        let offsets = [0, 1, 3].map(|i| results[i].to_vec::<i32>().unwrap());
        for offset in 0..=8 {
            let counts = offsets
                .each_ref()
                .map(|all| all.iter().filter(|&&o| o == offset).count());
            // 1000 each, with a standard deviation of 30.
            assert!(counts.iter().all(|n| (870..1130).contains(n)), "{offset}: {counts:?}");
        }
        assert!(offsets.iter().flatten().all(|o| (0..=8).contains(o)));
        let flips = results[2].to_bools().unwrap().iter().filter(|f| **f).count();
        assert!((4250..4750).contains(&flips), "{flips}");
        let equal = |a: usize, b: usize| (0..n).filter(|&i| offsets[a][i] == offsets[b][i]).count();
        assert!([equal(0, 1), equal(0, 2)].iter().all(|n| (870..1130).contains(n)));
    }

    #[test]
    fn images_are_standardised_one_by_one() {
        let pixels: Vec<u8> = (0..2 * 48).map(|i| if i < 48 { (i * 5) as u8 } else { 77 }).collect();
        let results = evaluate(|g| {
            let pixels = g.constant(Literal::new(&[2, 4, 4, 3], &pixels));
            let grey = g.constant(Literal::new(&[1, 2, 2, 3], &[1u8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]));
            vec![Preprocessing::Cifar.apply(pixels), Preprocessing::Cifar.apply(grey)]
        });
        let got: Vec<f32> = results[0].to_vec().unwrap();
        let (mean, std) = (117.5, (25.0 * (48.0f64.powi(2) - 1.0) / 12.0).sqrt());
        for (i, got) in got[..48].iter().enumerate() {
            assert!((f64::from(*got) - (5.0 * i as f64 - mean) / std).abs() < 1e-6);
        }
        // An image without contrast becomes zero, and low contrast is not amplified to the full range.
        assert_eq!(got[48..], [0.0; 48]);
        let last: f32 = results[1].to_vec::<f32>().unwrap()[11];
        let least = (1.0 / 12.0f64).sqrt();
        assert!((f64::from(last) - (1.0 - 1.0 / 12.0) / least).abs() < 1e-5, "{last}");
    }

    #[test]
    fn colours_are_normalised_as_imagenets() {
        let results = evaluate(|g| {
            let pixels = g.constant(Literal::new(&[1, 1, 2, 3], &[0u8, 0, 0, 255, 255, 255]));
            vec![Preprocessing::ImageNet.apply(pixels)]
        });
        let want = [0.0, 1.0].map(|p| [0, 1, 2].map(|c| (p - IMAGENET_MEAN[c]) / IMAGENET_STD[c]));
        for (got, want) in results[0].to_f64_vec().iter().zip(want.as_flattened()) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn only_images_of_enough_size_and_colour_are_taken() {
        for (dims, taken) in [
            (&[784][..], [true, false, false]),
            (&[32, 32, 3], [true, true, true]),
            (&[28, 28, 1], [true, true, false]),
            (&[3, 9, 3], [true, false, true]),
        ] {
            assert_eq!(
                [Preprocessing::Mnist, Preprocessing::Cifar, Preprocessing::ImageNet].map(|way| way.takes(dims)),
                taken,
                "{dims:?}"
            );
        }
    }
}
