//! Random examples of the right shape, for tests and rate measurements that need no files.

use hlo::{DType, Literal, Shape};
use rand_chacha::rand_core::Rng;

use super::{Dataset, stream};

/// `examples` images of `image_dims` with uniform random pixels, and uniform random labels in `0..classes`; a pure
/// function of its arguments. There is nothing in it to learn.
pub fn dataset(examples: usize, image_dims: &[usize], classes: usize, seed: u64) -> Dataset {
    let mut pixels = vec![0; examples * image_dims.iter().product::<usize>()];
    stream(seed, "synthetic-images", 0).fill_bytes(&mut pixels);
    let mut labels = stream(seed, "synthetic-labels", 0);
    let labels: Vec<i32> = (0..examples)
        .map(|_| ((u64::from(labels.next_u32()) * classes as u64) >> 32) as i32)
        .collect();
    let dims: Vec<usize> = [&[examples], image_dims].concat();
    let images =
        Literal::from_bytes(Shape::new(DType::U8, dims), pixels).unwrap_or_else(|| unreachable!("as allocated above"));
    Dataset {
        images,
        labels: Literal::new(&[examples], &labels),
        classes,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shapes_ranges_and_seed() {
        let set = dataset(500, &[28, 28], 10, 4);
        assert_eq!(set.images.shape().to_string(), "u8[500,28,28]");
        let labels = set.labels.to_vec::<i32>().unwrap();
        assert!((0..10).all(|class| labels.contains(&class)) && labels.iter().all(|l| (0..10).contains(l)));
        assert_eq!(set, dataset(500, &[28, 28], 10, 4));
        assert_ne!(set, dataset(500, &[28, 28], 10, 5));
    }
}
