//! Limits the memory that all threads together hold in large records.

use pictures::Budget;

/// Budget for records and encoded pictures, in bytes. A thread that holds some of it may decode pictures, which takes from
/// another budget, but not the other way round.
pub(super) static RECORDS: Budget = Budget::new(160 << 20, 4 << 20);
