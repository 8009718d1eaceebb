//! Rounded figures for text output: four digits with a unit prefix. JSON and CSV have exact ones.

use super::table::Style;

/// Formatters for numbers and byte sizes in a table of this style: rounded with units in text, else exact.
pub fn forms(style: Style) -> [fn(f64) -> String; 2] {
    match style {
        Style::Text => [count, bytes],
        Style::Markdown | Style::Csv => [whole, whole],
    }
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// Formats a number with the prefix k, M, G, T, P or E (powers of 1000): `266.6 k`. Integers below 1000 are unchanged.
pub fn count(value: f64) -> String {
    const PREFIXES: [&str; 7] = ["", " k", " M", " G", " T", " P", " E"];
    if value.fract() == 0.0 && value.abs() < 1000.0 {
        return format!("{value}");
    }
    let (mut scaled, mut prefix) = (value, 0);
    // From here on four digits would round up to 1000.
    while scaled.abs() >= 999.95 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let decimals = match scaled.abs() {
        large if large >= 99.995 => 1,
        middle if middle >= 9.9995 => 2,
        _ => 3,
    };
    format!("{scaled:.decimals$}{}", PREFIXES[prefix])
}

/// Formats seconds: `4.2 s`, `12m05s`, `3h02m`, `2d04h`.
pub fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{minutes}m{:02}s", whole % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Formats a number of bytes in powers of 1000: `17.24 kB`.
pub fn bytes(value: f64) -> String {
    let count = count(value);
    let space = if count.contains(' ') { "" } else { " " };
    format!("{count}{space}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_four_digits_and_a_prefix() {
        for (value, shown) in [
            (0.0, "0"),
            (7.0, "7"),
            (999.0, "999"),
            (0.5, "0.500"),
            (1000.0, "1.000 k"),
            (99_996.0, "100.0 k"),
            (266_200.0, "266.2 k"),
            (999_949.0, "999.9 k"),
            (999_999.0, "1.000 M"),
            (8_202_341_000.0, "8.202 G"),
            (3.225e18, "3.225 E"),
            (1e25, "10000000.0 E"),
        ] {
            assert_eq!(count(value), shown);
        }
        for (seconds, shown) in [
            (4.24, "4.2 s"),
            (59.4, "59 s"),
            (725.0, "12m05s"),
            (10_920.0, "3h02m"),
            (187_200.0, "2d04h"),
        ] {
            assert_eq!(time(seconds), shown);
        }
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(16_911_433_728.0), "16.91 GB");
    }
}
