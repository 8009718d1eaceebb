//! Random examples in the shape that a network takes, for use without a data set.

use hlo::{DType, Literal, Shape};

use super::{Dataset, Split};
use sparse::rng::{BoundedRng, stream};

/// Returns `examples` images `u8[examples, dims..]` with uniform pixels, and labels uniform over `classes`. The result
/// depends only on the arguments.
pub fn generate(dims: &[usize], classes: usize, examples: usize, split: Split, seed: u64) -> Dataset {
    let name = match split {
        Split::Train => "train",
        Split::Test => "test",
    };
    let bytes = examples * dims.iter().product::<usize>();
    let mut pixels = stream(seed, "synthetic images", name, 0);
    let mut images: Vec<u8> = (0..bytes.div_ceil(8))
        .flat_map(|_| pixels.next_u64().to_le_bytes())
        .collect();
    images.truncate(bytes);
    let mut labels = stream(seed, "synthetic labels", name, 0);
    let last = classes.saturating_sub(1) as u64;
    let labels: Vec<i32> = (0..examples).map(|_| labels.up_to(last) as i32).collect();
    Dataset {
        images: Literal::new(&[&[examples], dims].concat(), &images),
        labels: Literal::new(&[examples], &labels),
        classes,
    }
}

/// Returns `examples` black images of class 0, in the shapes of [`generate`].
pub fn null(dims: &[usize], classes: usize, examples: usize) -> Dataset {
    Dataset {
        images: Literal::zeros(Shape::new(DType::U8, [&[examples], dims].concat())),
        labels: Literal::zeros(Shape::new(DType::S32, [examples])),
        classes,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sets_differ_by_split_and_seed_and_have_every_value() {
        let of = |split, seed| generate(&[5, 7, 3], 4, 90, split, seed);
        let set = of(Split::Train, 1);
        assert_eq!((set.images.dims(), set.len()), (&[90, 5, 7, 3][..], 90));
        assert_eq!(set, of(Split::Train, 1));
        for other in [of(Split::Test, 1), of(Split::Train, 2)] {
            assert!(other.images != set.images && other.labels != set.labels);
        }
        let labels: Vec<i32> = set.labels.to_vec().unwrap();
        assert!((0..4).all(|class| labels.contains(&class)) && labels.iter().all(|label| (0..4).contains(label)));
        assert!((0..=255).all(|value| set.images.bytes().contains(&value)));
        // A smaller set is a prefix of a larger one.
        assert!(
            set.images
                .bytes()
                .starts_with(generate(&[5, 7, 3], 4, 3, Split::Train, 1).images.bytes())
        );
    }
}
