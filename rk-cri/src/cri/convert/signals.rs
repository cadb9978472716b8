//! CRI's `Signal`: a number for each name, in the order of the names. `0` is the runtime's default.

/// The names, from number 1 on, without `SIG`; those of real time follow from their number.
const NAMES: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];
const RTMIN: i32 = 35;
const RTMAX: i32 = 65;

/// The number of a signal by its name; an unknown one is the runtime's default.
pub(super) fn number(name: &str) -> i32 {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return at as i32 + 1;
    }
    let offset = |text: &str| text.parse::<i32>().ok().filter(|offset| (1..=15).contains(offset));
    let found = match name {
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => {
            let above = name.strip_prefix("RTMINPLUS").or(name.strip_prefix("RTMIN+"));
            let below = name.strip_prefix("RTMAXMINUS").or(name.strip_prefix("RTMAX-"));
            match (above, below) {
                (Some(above), _) => offset(above).map(|offset| RTMIN + offset),
                (_, Some(below)) => offset(below).map(|offset| RTMAX - offset),
                _ => None,
            }
        }
    };
    found.unwrap_or(0)
}

/// The name of a signal by its number; empty for the runtime's default and for what is unknown.
pub(super) fn name(number: i32) -> String {
    match number {
        1..RTMIN => format!("SIG{}", NAMES[number as usize - 1]),
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        36..=50 => format!("SIGRTMINPLUS{}", number - RTMIN),
        51..RTMAX => format!("SIGRTMAXMINUS{}", RTMAX - number),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_belong_together() {
        for number_ in 1..=65 {
            assert_eq!(number(&name(number_)), number_, "{}", name(number_));
        }
        assert_eq!((number("SIGTERM"), number("KILL"), number("SIGUSR1")), (23, 13, 29));
        assert_eq!((number("RTMIN+3"), number("RTMAX-1")), (38, 64));
        assert_eq!((number(""), number("nothing")), (0, 0));
        assert_eq!((name(0), name(-1), name(66)), Default::default());
    }
}
