//! Where the devices of several processes are.

use crate::pjrt::{self, Place};

/// The devices of all replicas: of each process its first `each`. The plugin must know of as many processes as there are, and
/// number them alike.
pub(super) fn assigned(
    platform: &str,
    places: &[Place],
    found: usize,
    (process, count): (usize, usize),
    each: usize,
) -> pjrt::Result<Vec<i64>> {
    let known = places
        .iter()
        .map(|place| place.process)
        .max()
        .map_or(0, |last| last + 1);
    if known != count {
        return Err(pjrt::Error::OtherProcesses {
            platform: platform.into(),
            known,
            count,
        });
    }
    if found != process {
        return Err(pjrt::Error::OtherNumber {
            platform: platform.into(),
            found,
            process,
        });
    }
    let of = |process: usize| {
        let own = places.iter().filter(|place| place.process == process);
        let ids: Vec<i64> = own.map(|place| place.id).take(each).collect();
        match ids.len() {
            n if n == each => Ok(ids),
            found => Err(pjrt::Error::TooFewOfProcess { process, each, found }),
        }
    };
    let ids: Vec<Vec<i64>> = (0..count).map(of).collect::<pjrt::Result<_>>()?;
    Ok(ids.concat())
}

/// Checks that this process's replicas are on its first devices, in their order: arguments are given device by device.
pub(super) fn in_order(ids: &[i64], own: &[Place]) -> pjrt::Result<()> {
    let first: Vec<i64> = own.iter().map(|place| place.id).take(ids.len()).collect();
    match first == ids {
        true => Ok(()),
        false => Err(pjrt::Error::Unexpected {
            call: "PJRT_Client_AddressableDevices",
            found: format!("devices {first:?}"),
            expected: format!("{ids:?}, their order among those of all processes"),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two hosts with two devices each, as a GPU client and a TPU's list them.
    #[test]
    fn replicas_are_on_the_devices_of_their_process() {
        let places = |of: [(i64, usize); 4]| of.map(|(id, process)| Place { id, process });
        let grouped = places([(0, 0), (1, 0), (8, 1), (9, 1)]);
        let mixed = places([(0, 0), (2, 1), (1, 0), (3, 1)]);
        let assigned = |places: &[Place], number, each| assigned("gpu", places, number, (1, 2), each);
        assert_eq!(assigned(&grouped, 1, 2).unwrap(), [0, 1, 8, 9]);
        assert_eq!(assigned(&grouped, 1, 1).unwrap(), [0, 8]);
        assert_eq!(assigned(&mixed, 1, 2).unwrap(), [0, 1, 2, 3]);
        let refused = |places: &[Place], number, each| assigned(places, number, each).unwrap_err().to_string();
        assert_eq!(
            refused(&grouped, 1, 3),
            "process 0 has 2 devices, expected at least 3: --replicas counts those of all processes together"
        );
        assert_eq!(
            refused(&grouped, 0, 2),
            "the gpu client is process 0 for its plugin, expected --process-id 1: give each process the plugin's number"
        );
        assert_eq!(
            refused(&grouped[..2], 0, 2),
            "the gpu client knows devices of 1 process, expected those of 2: its plugin does not run over several processes, or \
             was not started on all of them"
        );
        in_order(&[8, 9], &grouped[2..]).unwrap();
        let swapped = in_order(&[9, 8], &grouped[2..]).unwrap_err().to_string();
        assert!(swapped.contains("devices [8, 9]"), "{swapped}");
    }
}
