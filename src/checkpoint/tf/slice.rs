//! Slices of partitioned variables: their extents, their keys, and how to assemble them.

use super::proto;

/// A slice of an array: start and length per axis, or `None` for a whole axis.
///
/// TensorFlow distinguishes a whole axis from an explicit range of the same extent: the keys differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice(pub Vec<Option<(usize, usize)>>);

impl Slice {
    /// `None` if a number is negative.
    pub(super) fn of(slice: &proto::TensorSlice) -> Option<Self> {
        let extent = |extent: &proto::Extent| {
            let start = usize::try_from(extent.start).ok()?;
            match extent.length {
                Some(length) => Some(Some((start, usize::try_from(length).ok()?))),
                None => (start == 0).then_some(None),
            }
        };
        slice.extent.iter().map(extent).collect::<Option<_>>().map(Slice)
    }

    pub(super) fn to_proto(&self) -> proto::TensorSlice {
        let extent = |extent: &Option<(usize, usize)>| proto::Extent {
            start: extent.map_or(0, |(start, _)| start as i64),
            length: extent.map(|(_, length)| length as i64),
        };
        proto::TensorSlice {
            extent: self.0.iter().map(extent).collect(),
        }
    }

    /// Encodes the key of this slice of variable `name` in TensorFlow's ordered code: zero, name, rank, then start and
    /// length of each axis, with 0 and -1 for a whole one.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        let mut key = vec![0];
        for &byte in name.as_bytes() {
            match byte {
                0 => key.extend([0, 0xff]),
                0xff => key.extend([0xff, 0]),
                byte => key.push(byte),
            }
        }
        key.extend([0, 1]);
        let rank = (self.0.len() as u64).to_be_bytes();
        let rank = &rank[rank.iter().take_while(|&&byte| byte == 0).count()..];
        key.push(rank.len() as u8);
        key.extend(rank);
        for extent in &self.0 {
            let (start, length) = extent.map_or((0, -1), |(start, length)| (start as i64, length as i64));
            put_signed(&mut key, start);
            put_signed(&mut key, length);
        }
        key
    }

    /// Dimensions of the slice in an array of these dimensions; `None` if it is not inside.
    pub fn dims(&self, whole: &[usize]) -> Option<Vec<usize>> {
        let bounded = self.bounds(whole)?;
        Some(bounded.iter().map(|(start, end)| end - start).collect())
    }

    /// Start and end per axis.
    fn bounds(&self, whole: &[usize]) -> Option<Vec<(usize, usize)>> {
        let bounds = |(extent, &dim): (&Option<(usize, usize)>, &usize)| match *extent {
            None => Some((0, dim)),
            Some((start, length)) => Some((start, start.checked_add(length).filter(|&end| end <= dim)?)),
        };
        (self.0.len() == whole.len()).then(|| self.0.iter().zip(whole).map(bounds).collect())?
    }
}

/// Encodes a signed number in the minimum number of 7-bit groups. Leading ones give the number of groups; negative
/// numbers have every bit inverted. Byte order equals numeric order.
fn put_signed(out: &mut Vec<u8>, value: i64) {
    let magnitude = if value < 0 { !value } else { value };
    let length = (u64::BITS - magnitude.leading_zeros()) as usize / 7 + 1;
    // The header of ten groups takes ten bits, more than the first byte.
    let wide = i128::from(value).to_be_bytes();
    let mut bytes = wide[wide.len() - length..].to_vec();
    let header = !(u16::MAX.checked_shr(length as u32).unwrap_or(0));
    let [high, low] = header.to_be_bytes();
    bytes[0] ^= high;
    if let Some(second) = bytes.get_mut(1) {
        *second ^= low;
    }
    out.extend(bytes);
}

/// Number of elements, if the product of the nonzero dimensions fits.
pub(super) fn elements(dims: &[usize]) -> usize {
    if dims.contains(&0) { 0 } else { dims.iter().product() }
}

/// The order in which to read slices so that their concatenation is the whole array, row-major.
#[derive(Debug)]
pub(super) struct Assembly {
    dims: Vec<usize>,
    /// `(start, end)` per axis of each slice.
    parts: Vec<Vec<(usize, usize)>>,
}

impl Assembly {
    /// `None` unless the slices tile an array of these dimensions without overlap.
    pub fn new(dims: &[usize], slices: &[Slice]) -> Option<Self> {
        let parts: Vec<_> = slices.iter().map(|slice| slice.bounds(dims)).collect::<Option<_>>()?;
        let disjoint =
            |a: &[(usize, usize)], b: &[(usize, usize)]| a.iter().zip(b).any(|(a, b)| a.1 <= b.0 || b.1 <= a.0);
        let apart = (1..parts.len()).all(|i| parts[..i].iter().all(|earlier| disjoint(earlier, &parts[i])));
        let size =
            |part: &Vec<(usize, usize)>| elements(&part.iter().map(|(start, end)| end - start).collect::<Vec<_>>());
        // The sizes of slices that do not overlap cannot exceed the whole, so equal sums imply a full cover.
        (apart && parts.iter().map(size).sum::<usize>() == elements(dims)).then(|| Assembly {
            dims: dims.to_vec(),
            parts,
        })
    }

    /// Calls `run` with a slice and the number of elements to take from it next, in array order.
    pub fn runs<E>(&self, run: &mut impl FnMut(usize, usize) -> Result<(), E>) -> Result<(), E> {
        let filled = |part: &Vec<(usize, usize)>| part.iter().all(|(start, end)| start < end);
        let all: Vec<usize> = (0..self.parts.len()).filter(|&i| filled(&self.parts[i])).collect();
        match all[..] {
            [] => Ok(()),
            [only] => run(only, elements(&self.dims)),
            _ => self.axis(0, &all, run),
        }
    }

    /// The same from `axis` on, for the slices that contain the indices of the axes before it.
    fn axis<E>(
        &self,
        axis: usize,
        among: &[usize],
        run: &mut impl FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let inner: usize = self.dims[axis + 1..].iter().product();
        let bounds = |&i: &usize| self.parts[i][axis];
        let mut cuts: Vec<usize> = among.iter().map(bounds).flat_map(|(start, end)| [start, end]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        for cut in cuts.windows(2) {
            let holds = |i: &usize| bounds(i).0 <= cut[0] && cut[1] <= bounds(i).1;
            let held: Vec<usize> = among.iter().copied().filter(holds).collect();
            match held[..] {
                // A single slice spans the remaining axes.
                [only] => run(only, (cut[1] - cut[0]) * inner)?,
                _ => (cut[0]..cut[1]).try_for_each(|_| self.axis(axis + 1, &held, run))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The first key is from TensorFlow 1.15 (tests/data/tf1/grid); long numbers follow the definition of the code.
    #[test]
    fn keys_are_tensorflows() {
        let key = Slice(vec![Some((0, 2)), Some((0, 1))]).key("grid");
        assert_eq!(key, b"\0grid\0\x01\x01\x02\x80\x82\x80\x81");
        assert_eq!(Slice(vec![None]).key("\0"), b"\0\0\xff\0\x01\x01\x01\x80\x7f");
        let signed = |value| {
            let mut out = vec![];
            put_signed(&mut out, value);
            out
        };
        assert_eq!(signed(63), [0xbf]);
        assert_eq!(signed(64), [0xc0, 0x40]);
        assert_eq!(signed(-64), [0x40]);
        assert_eq!(signed(-65), [0x3f, 0xbf]);
        assert_eq!(signed(8191), [0xdf, 0xff]);
        assert_eq!(signed(8192), [0xe0, 0x20, 0]);
        assert_eq!(signed(1 << 55), [0xff, 0x80, 0x80, 0, 0, 0, 0, 0, 0]);
        assert_eq!(signed(i64::MAX)[..3], [0xff, 0xc0, 0x7f]);
        let ascending: Vec<_> = (0..63).map(|bit| signed(1 << bit)).collect();
        assert!(ascending.is_sorted());
        assert!((0..63).rev().map(|bit| signed(-(1 << bit) - 1)).is_sorted());
    }

    /// Slice and element index of each element of the array.
    fn order(dims: &[usize], slices: &[Slice]) -> Option<Vec<(usize, usize)>> {
        let assembly = Assembly::new(dims, slices)?;
        let (mut next, mut order) = (vec![0; slices.len()], vec![]);
        let mut run = |part: usize, count: usize| {
            order.extend((next[part]..next[part] + count).map(|i| (part, i)));
            next[part] += count;
            Ok::<_, ()>(())
        };
        assembly.runs(&mut run).unwrap();
        Some(order)
    }

    #[test]
    fn parts_become_the_whole() {
        let slice = |extents: &[(usize, usize)]| Slice(extents.iter().copied().map(Some).collect());
        assert_eq!(order(&[], &[Slice(vec![])]).unwrap(), [(0, 0)]);
        let columns = [slice(&[(0, 2), (0, 1)]), slice(&[(0, 2), (1, 2)])];
        let want = [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (1, 3)];
        assert_eq!(order(&[2, 3], &columns).unwrap(), want);
        // Not a grid: a bar on top and two slices of unequal height below, in another order.
        let parts = [
            slice(&[(1, 2), (2, 1)]),
            Slice(vec![Some((0, 1)), None]),
            slice(&[(1, 2), (0, 2)]),
        ];
        let want = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 0), (2, 2), (2, 3), (0, 1)];
        assert_eq!(order(&[3, 3], &parts).unwrap(), want);
        assert_eq!(order(&[0, 3], &[Slice(vec![Some((0, 0)), None])]).unwrap(), []);
    }

    #[test]
    fn gaps_overlaps_and_what_lies_outside_are_refused() {
        let rows = |rows: &[(usize, usize)]| rows.iter().map(|&row| Slice(vec![Some(row)])).collect::<Vec<_>>();
        assert!(order(&[4], &rows(&[(0, 2), (2, 2)])).is_some());
        for bad in [
            &[(0, 2)][..],
            &[(0, 2), (1, 2)],
            &[(0, 2), (2, 3)],
            &[(0, usize::MAX), (1, 5)],
            &[],
        ] {
            assert!(order(&[4], &rows(bad)).is_none(), "{bad:?}");
        }
        assert!(order(&[4, 1], &rows(&[(0, 4)])).is_none());
    }
}
