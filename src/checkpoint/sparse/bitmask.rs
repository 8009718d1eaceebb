//! Stores `S/mask.bits` and `S/weights.values` instead of `S/mask` and `S/weights`.
//!
//! The mask at flat index `i` in C order is bit `i % 8` of byte `i / 8`, counted from the least significant bit; unused
//! bits of the last byte are 0. The values are those of the connections in order of flat index. A layer in which every
//! weight is a connection is stored complete, without bits.

use hlo::{DType, Literal, Shape};

use super::{Arrays, Layer, kernel, mask};
use crate::checkpoint::file;

fn values(scope: &str) -> String {
    format!("{}.values", kernel(scope))
}

fn bits(scope: &str) -> String {
    format!("{}.bits", mask(scope))
}

/// Removes kernel and mask of a layer from `arrays` and returns the arrays to store instead.
pub fn pack(arrays: &mut Arrays, scope: &str, ones: &[bool]) -> Vec<(String, Literal)> {
    arrays.remove(&mask(scope));
    if ones.iter().all(|&one| one) {
        return vec![];
    }
    let Some(complete) = arrays.remove(&kernel(scope)) else {
        return vec![];
    };
    let size = complete.dtype().size();
    let mut kept = vec![];
    for (element, _) in complete.bytes().chunks_exact(size).zip(ones).filter(|(_, one)| **one) {
        kept.extend_from_slice(element);
    }
    let shape = Shape::new(complete.dtype(), [kept.len() / size]);
    let byte = |ones: &[bool]| ones.iter().rev().fold(0, |byte, &one| byte << 1 | u8::from(one));
    let packed: Vec<u8> = ones.chunks(8).map(byte).collect();
    let values = Literal::from_bytes(shape, kept).map(|array| (self::values(scope), array));
    let bits = (bits(scope), Literal::new(&[packed.len()], &packed));
    values.into_iter().chain([bits]).collect()
}

/// Removes the stored arrays of a layer from `arrays` and returns kernel and mask, or why they do not match the layer.
pub fn unpack(arrays: &mut Arrays, scope: &str, layer: &Layer) -> Result<Vec<(String, Literal)>, String> {
    let Layer { shape, connections } = layer;
    let elements = file::elements(shape, 1).ok_or_else(|| format!("layer '{scope}': shape {shape:?} overflows"))?;
    if *connections > elements {
        return Err(format!(
            "layer '{scope}': {connections} connections, expected at most {elements}, the weights of {shape:?}"
        ));
    }
    let take = |name: String, dims: &[usize], dtype: Option<DType>| {
        let wanted = || match dtype {
            Some(dtype) => Shape::new(dtype, dims).to_string(),
            None => format!("an array of {dims:?}"),
        };
        let found = arrays
            .get(&name)
            .ok_or_else(|| format!("'{name}' is missing, expected {}", wanted()))?;
        let fits = found.dims() == dims && dtype.is_none_or(|dtype| found.dtype() == dtype);
        match fits {
            true => Ok((name, found)),
            false => Err(format!("'{name}' is {}, expected {}", found.shape(), wanted())),
        }
    };
    if *connections == elements {
        take(kernel(scope), shape, None)?;
        return Ok(vec![(mask(scope), Literal::from_bools(shape, &vec![true; elements]))]);
    }
    let (bits, packed) = take(bits(scope), &[elements.div_ceil(8)], Some(DType::U8))?;
    let ones = unpack_bits(&bits, packed.bytes(), elements, *connections)?;
    let (values, kept) = take(values(scope), &[*connections], None)?;
    let size = kept.dtype().size();
    if file::elements(shape, size).is_none() {
        return Err(format!("layer '{scope}': shape {shape:?} overflows"));
    }
    let mut complete = vec![0; elements * size];
    let mut kept_bytes = kept.bytes().chunks_exact(size);
    for (place, _) in complete.chunks_exact_mut(size).zip(&ones).filter(|(_, one)| **one) {
        place.copy_from_slice(kept_bytes.next().unwrap_or_default());
    }
    let weights = Literal::from_bytes(Shape::new(kept.dtype(), shape.clone()), complete);
    let weights = weights.ok_or_else(|| format!("layer '{scope}': shape and size differ"))?;
    arrays.remove(&bits);
    arrays.remove(&values);
    Ok(vec![
        (kernel(scope), weights),
        (mask(scope), Literal::from_bools(shape, &ones)),
    ])
}

fn unpack_bits(name: &str, packed: &[u8], elements: usize, connections: usize) -> Result<Vec<bool>, String> {
    let bit = |i: usize| packed[i / 8] >> (i % 8) & 1 == 1;
    if let Some(i) = (elements..packed.len() * 8).find(|&i| bit(i)) {
        return Err(format!(
            "'{name}' has bit {i} set, expected 0 after the {elements} bits of the mask"
        ));
    }
    let found: usize = packed.iter().map(|byte| byte.count_ones() as usize).sum();
    if found != connections {
        return Err(format!(
            "'{name}' has {found} bits set, expected one for each of the {connections} connections"
        ));
    }
    Ok((0..elements).map(bit).collect())
}
