//! Stores `S/weights.crow_indices`, `S/weights.col_indices` and `S/weights.values` instead of `S/mask` and `S/weights`:
//! the kernel as a matrix with one row per output channel, and its other axes flattened in C order as columns.

use hlo::{Literal, Shape};

use super::{Arrays, kernel, mask};

/// Maximum rows of a matrix without elements, as an empty array may claim any number of them.
const MAX_EMPTY_ROWS: usize = 1 << 16;

/// Removes kernel and mask of a layer from `arrays` and returns the arrays to store instead. Fails if 32-bit indices
/// overflow.
pub fn pack(arrays: &mut Arrays, scope: &str, ones: &[bool]) -> Result<Vec<(String, Literal)>, String> {
    let rows = arrays
        .get(&kernel(scope))
        .and_then(|kernel| kernel.dims().last().copied());
    let rows = rows.unwrap_or(1);
    if i32::try_from(ones.len()).is_err() || rows > ones.len().max(MAX_EMPTY_ROWS) {
        let found = format!("{rows} output channels and {} weights", ones.len());
        let expected = format!(
            "at most {} weights, and {MAX_EMPTY_ROWS} output channels without any",
            i32::MAX
        );
        return Err(format!("layer '{scope}' has {found}, expected for csr {expected}"));
    }
    arrays.remove(&mask(scope));
    let Some(complete) = arrays.remove(&kernel(scope)) else {
        return Ok(vec![]);
    };
    let size = complete.dtype().size();
    let (mut starts, mut columns, mut kept) = (vec![0i32], vec![], vec![]);
    for row in 0..rows {
        let connections = (row..ones.len()).step_by(rows).enumerate().filter(|&(_, at)| ones[at]);
        for (column, at) in connections {
            columns.push(column as i32);
            kept.extend_from_slice(&complete.bytes()[at * size..][..size]);
        }
        starts.push(columns.len() as i32);
    }
    let shape = Shape::new(complete.dtype(), [columns.len()]);
    let values = Literal::from_bytes(shape, kept).map(|array| ("values", array));
    let indices = [
        ("crow_indices", Literal::new(&[starts.len()], &starts)),
        ("col_indices", Literal::new(&[columns.len()], &columns)),
    ];
    let named = |(part, array)| (format!("{}.{part}", kernel(scope)), array);
    Ok(indices.into_iter().chain(values).map(named).collect())
}
