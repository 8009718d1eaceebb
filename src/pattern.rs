//! Patterns of names, as `--freeze` and `model.masked` take them.

/// Whether `name` has the form of `pattern`, in which `*` stands for any text and `?` for any character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` was, and how far the text that it stands for reaches.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, reached)) => {
                    star = Some((at, reached + 1));
                    (p, n) = (at + 1, reached + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("layer1/*", "layer1/weights", true),
            ("layer1/*", "layer10/weights", false),
            ("*/biases", "a/b/biases", true),
            ("*bias*s", "layer/biases", true),
            ("layer?", "layer1", true),
            ("layer?", "layer", false),
            ("layer", "layer1", false),
            ("**", "", true),
            ("a*b*c", "aXbXbYc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
