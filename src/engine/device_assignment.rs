//! Assigns replicas to the devices of several processes.

use pjrt::GlobalDevice;

use super::error::{Error, Result};

/// Ids of the devices of all replicas: the first `each` of every process. The plugin must know the same number of processes,
/// with the same numbers.
pub(super) fn assign(
    platform: &str,
    devices: &[GlobalDevice],
    found: usize,
    (process, count): (usize, usize),
    each: usize,
) -> Result<Vec<i64>> {
    let known = devices
        .iter()
        .map(|device| device.process)
        .max()
        .map_or(0, |last| last + 1);
    if known != count {
        return Err(Error::OtherProcesses {
            platform: platform.into(),
            known,
            count,
        });
    }
    if found != process {
        return Err(Error::OtherNumber {
            platform: platform.into(),
            found,
            process,
        });
    }
    let ids_of = |process: usize| {
        let own = devices.iter().filter(|device| device.process == process);
        let ids: Vec<i64> = own.map(|device| device.id).take(each).collect();
        match ids.len() {
            n if n == each => Ok(ids),
            found => Err(Error::TooFewOfProcess { process, each, found }),
        }
    };
    let ids: Vec<Vec<i64>> = (0..count).map(ids_of).collect::<Result<_>>()?;
    Ok(ids.concat())
}

/// Checks that this process's replicas use its first devices in their order, because arguments are given device by device.
pub(super) fn check_order(ids: &[i64], own: &[GlobalDevice]) -> Result<()> {
    let first: Vec<i64> = own.iter().map(|device| device.id).take(ids.len()).collect();
    match first == ids {
        true => Ok(()),
        false => Err(Error::Pjrt(pjrt::Error::Unexpected {
            call: "PJRT_Client_AddressableDevices",
            found: format!("devices {first:?}"),
            expected: format!("{ids:?}, their order among the devices of all processes"),
        })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two hosts with two devices each, as GPU and TPU clients list them.
    #[test]
    fn assigns_replicas_to_the_devices_of_their_process() {
        let devices = |ids: [(i64, usize); 4]| ids.map(|(id, process)| GlobalDevice { id, process });
        let grouped = devices([(0, 0), (1, 0), (8, 1), (9, 1)]);
        let mixed = devices([(0, 0), (2, 1), (1, 0), (3, 1)]);
        let assign = |devices: &[GlobalDevice], number, each| assign("gpu", devices, number, (1, 2), each);
        assert_eq!(assign(&grouped, 1, 2).unwrap(), [0, 1, 8, 9]);
        assert_eq!(assign(&grouped, 1, 1).unwrap(), [0, 8]);
        assert_eq!(assign(&mixed, 1, 2).unwrap(), [0, 1, 2, 3]);
        let refused = |devices: &[GlobalDevice], number, each| assign(devices, number, each).unwrap_err().to_string();
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
        check_order(&[8, 9], &grouped[2..]).unwrap();
        let swapped = check_order(&[9, 8], &grouped[2..]).unwrap_err().to_string();
        assert!(swapped.contains("devices [8, 9]"), "{swapped}");
    }
}
