//! Compares arrays and metrics, byte by byte or within a tolerance.

use std::collections::BTreeMap;

use hlo::{DType, Literal};
use serde_json::Value;

use super::Check;

/// Arrays of one kind, as they are reported.
const KINDS: [&str; 3] = ["masks", "weights and slots", "counters"];

/// Compares all arrays of two checkpoints, kind by kind. `tolerance`: share of the connections of a mask that may differ, and of
/// the norm of other arrays; `None` for equal bytes.
pub fn arrays(
    stored: &BTreeMap<String, Literal>,
    own: &BTreeMap<String, Literal>,
    tolerance: Option<f64>,
) -> Vec<Check> {
    let check = |kind: &&str| {
        let of_kind = |(name, array): &(&String, &Literal)| kind_of(array) == *kind && own.contains_key(*name);
        let compared: Vec<(&String, f64)> = stored
            .iter()
            .filter(of_kind)
            .map(|(name, array)| (name, difference(array, &own[name])))
            .collect();
        let allowed = tolerance.unwrap_or(0.0);
        // NaN is outside of every tolerance.
        let wrong: Vec<_> = compared.iter().filter(|(_, by)| by.is_nan() || *by > allowed).collect();
        let largest = compared.iter().map(|(_, by)| *by).fold(0.0, f64::max);
        let found = match (wrong.first(), tolerance) {
            (Some((name, by)), _) => format!(
                "{} of {} differ, {name} by {by:.1e} of its size; allowed {allowed:.1e}",
                wrong.len(),
                compared.len()
            ),
            (None, None) => format!("{} arrays, equal byte by byte", compared.len()),
            (None, Some(_)) => format!("{} arrays, equal within {largest:.1e}", compared.len()),
        };
        (!compared.is_empty()).then(|| Check {
            name: (*kind).to_owned(),
            ok: wrong.is_empty(),
            found,
        })
    };
    let mut checks: Vec<Check> = KINDS.iter().filter_map(check).collect();
    let missing: Vec<&String> = stored
        .keys()
        .filter(|name| !own.contains_key(*name))
        .chain(own.keys().filter(|name| !stored.contains_key(*name)))
        .collect();
    if let Some(first) = missing.first() {
        checks.push(Check {
            name: "names of arrays".into(),
            ok: false,
            found: format!("{first} and {} more are in one checkpoint only", missing.len() - 1),
        });
    }
    checks
}

fn kind_of(array: &Literal) -> &'static str {
    match array.dtype() {
        DType::Pred => KINDS[0],
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => KINDS[1],
        _ => KINDS[2],
    }
}

/// Relative difference of two arrays, of masks the share of the connections; 0 exactly if their bytes are equal.
fn difference(a: &Literal, b: &Literal) -> f64 {
    if a.shape() != b.shape() {
        return f64::INFINITY;
    }
    if a.bytes() == b.bytes() {
        return 0.0;
    }
    let is_mask = a.dtype() == DType::Pred;
    let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
    if is_mask {
        let apart = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        let ones = b.iter().filter(|&&b| b != 0.0).count();
        return apart as f64 / ones.max(1) as f64;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(&b).map(|(a, b)| a - b));
    let size = norm(&mut b.iter().copied());
    // Differences that vanish in f64, such as of -0.0, are differences.
    (apart / size.max(f64::MIN_POSITIVE)).max(f64::EPSILON)
}

/// Compares the records of metrics with an iteration in `from+1..=to`. A launch counts if it began at the same iteration in both.
/// Rates are not compared.
pub fn metrics(both: &[Vec<Value>; 2], [from, to]: [u64; 2], tolerance: Option<f64>) -> Check {
    let [stored, own] = both.each_ref().map(|records| keyed(records, from, to));
    let (mut compared, mut wrong) = (0, vec![]);
    for (key, record) in &stored {
        let Some(other) = own.get(key) else { continue };
        compared += 1;
        if !alike(record, other, tolerance) {
            wrong.push(key.1);
        }
    }
    let name = "metrics of the window".to_owned();
    let found = match wrong.first() {
        Some(at) => format!(
            "{} of {compared} records differ, the first at iteration {at}",
            wrong.len()
        ),
        None if compared == 0 => "no record to compare".into(),
        None => format!("{compared} records, equal"),
    };
    Check {
        name,
        ok: wrong.is_empty(),
        found,
    }
}

/// Kind of a record, its iteration, and for a launch the iteration before it.
type Key = (&'static str, u64, u64);

fn keyed(records: &[Value], from: u64, to: u64) -> BTreeMap<Key, &Value> {
    let mut keyed = BTreeMap::new();
    let mut before = 0;
    for record in records {
        let Some(at) = record["iteration"].as_u64() else {
            continue;
        };
        let kinds = ["validation", "eval"];
        let kind = kinds.into_iter().find(|kind| record[*kind].is_object());
        let key = match kind {
            Some(kind) => (kind, at, 0),
            None => ("launch", at, std::mem::replace(&mut before, at)),
        };
        if (from + 1..=to).contains(&at) {
            keyed.insert(key, record);
        }
    }
    keyed
}

fn alike(a: &Value, b: &Value, tolerance: Option<f64>) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys()).filter(|key| *key != "steps_per_s");
            keys.into_iter().all(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => alike(a, b, tolerance),
                _ => false,
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b, tolerance))
        }
        (Value::Number(x), Value::Number(y)) => match (tolerance, x.as_f64(), y.as_f64()) {
            (Some(tolerance), Some(x), Some(y)) => (x - y).abs() <= tolerance * x.abs().max(y.abs()).max(1.0),
            _ => a == b,
        },
        _ => a == b,
    }
}
