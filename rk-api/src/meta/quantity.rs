//! Amounts of resources: `500m`, `1Gi`, `1e3`.
//!
//! A [`Quantity`] is an exact decimal number and the family of suffix that it was written with.
//! It is written back in its canonical form: the largest suffix that needs no fraction. Both are
//! as in apimachinery's `resource.Quantity`, including its limits: at most nine decimal places
//! (finer amounts are rounded up), and amounts that do not fit 18 digits are capped at 2^63-1.

use std::{cmp::Ordering, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// The suffixes that a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `G`, … and `m`, `u`, `n`.
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, ….
    BinarySi,
    /// `e3`, `E-3`.
    DecimalExponent,
}

/// An exact amount. Equality and order are those of the number; the format does not count.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// The amount is `value * 10^scale`. Normalised: no trailing zero digit in `value`, and zero
    /// has scale 0. At least -9, and at most 36 for amounts written with exponents.
    value: i128,
    scale: i32,
    format: Format,
}

/// A text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Amounts beyond this are capped to it.
const MAX: i128 = i64::MAX as i128;
const NANO: i32 = -9;
const NANOS_PER_ONE: i128 = 1_000_000_000;
const DECIMAL_SUFFIXES: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY_SUFFIXES: &[(&str, u32)] =
    &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { value: 0, scale: 0, format: Format::DecimalSi };

    /// Reads a quantity.
    ///
    /// # Errors
    /// See [`QuantityError`].
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, whole, fraction, suffix) = split(text)?;
        let (base2, exponent, format) = suffix_of(suffix)?;
        if let Some((magnitude, scale)) = plain(whole, fraction, base2, exponent) {
            let value = if negative { -magnitude } else { magnitude };
            return Ok(Self::normalized(value, scale, format));
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        let (magnitude, scale, format) = scaled(whole, fraction, base2, exponent, format);
        let value = if negative { -magnitude } else { magnitude };
        Ok(Self::normalized(value, scale, format))
    }

    /// `value * 10^scale`, written with decimal suffixes.
    pub fn new(value: i64, scale: i32) -> Self {
        Self::normalized(i128::from(value), scale.max(NANO), Format::DecimalSi)
    }

    /// So many thousandths.
    pub fn from_millis(millis: i64) -> Self {
        Self::new(millis, -3)
    }

    /// The same amount, to be written in `format`.
    #[must_use]
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// The suffixes that it was written with.
    pub fn format(&self) -> Format {
        self.format
    }

    fn normalized(mut value: i128, mut scale: i32, format: Format) -> Self {
        if value == 0 {
            return Self { value: 0, scale: 0, format };
        }
        // Division is much dearer at the full width, which hardly any amount needs.
        if let Ok(mut narrow) = i64::try_from(value) {
            while narrow % 10 == 0 {
                narrow /= 10;
                scale += 1;
            }
            return Self { value: narrow.into(), scale, format };
        }
        while value % 10 == 0 {
            value /= 10;
            scale += 1;
        }
        Self { value, scale, format }
    }

    /// The amount as an integer, rounded away from zero; [`i64::MAX`] at most.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// The amount in thousandths, rounded away from zero; [`i64::MAX`] at most.
    pub fn millis(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The amount in units of `10^scale`, rounded away from zero; [`i64::MAX`] at most.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let shift = self.scale - scale;
        let wide = if shift >= 0 {
            match pow10(shift).and_then(|factor| self.value.checked_mul(factor)) {
                Some(value) => value,
                None => i128::MAX * self.value.signum(),
            }
        } else {
            match pow10(-shift) {
                Some(divisor) => div_away_from_zero(self.value, divisor),
                None => self.value.signum(),
            }
        };
        i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
    }

    /// The amount as an integer, if it is a whole number that fits.
    pub fn integer(&self) -> Option<i64> {
        let factor = pow10(self.scale)?;
        self.value.checked_mul(factor).and_then(|value| i64::try_from(value).ok())
    }

    /// The amount as a floating-point number, rounded if need be.
    pub fn approximate(&self) -> f64 {
        if self.scale < 0 {
            self.value as f64 / 10_f64.powi(-self.scale)
        } else {
            self.value as f64 * 10_f64.powi(self.scale)
        }
    }

    /// -1, 0 or 1.
    pub fn signum(&self) -> i32 {
        self.value.signum() as i32
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// The sum, in the format of the first that is not zero.
    #[must_use]
    pub fn plus(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        let scale = self.scale.min(other.scale);
        let at =
            |q: &Quantity| pow10(q.scale - scale).and_then(|factor| q.value.checked_mul(factor));
        match (at(self), at(other)) {
            (Some(a), Some(b)) => Self::normalized(a.saturating_add(b), scale, format),
            // Only amounts near 10^36 beside nanos get here, where the smaller does not count.
            _ if self.scale >= other.scale => self.with_format(format),
            _ => other.with_format(format),
        }
    }

    /// The difference, in the format of the first that is not zero.
    #[must_use]
    pub fn minus(&self, other: &Quantity) -> Quantity {
        self.plus(&Quantity { value: -other.value, ..*other })
    }

    /// The text of the API in its canonical form, when it is a quantity.
    ///
    /// # Errors
    /// See [`QuantityError`].
    pub fn canonical(text: &str) -> Result<String, QuantityError> {
        if is_canonical(text) {
            return Ok(text.to_owned());
        }
        Self::parse(text).map(|quantity| quantity.to_string())
    }

    /// Binary suffixes for an integer that they do not make longer to read, decimal ones else.
    fn written_format(&self) -> Format {
        let whole = self.scale >= 0;
        match self.format {
            Format::BinarySi if whole && self.value().unsigned_abs() >= 1024 => Format::BinarySi,
            Format::BinarySi => Format::DecimalSi,
            other => other,
        }
    }
}

/// Whether the text is one that [`Quantity`] writes as it is. It knows the most common ones.
fn is_canonical(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    // Neither zero nor with zeros in front, and not near a cap.
    if number.starts_with('0') || digits > 6 {
        return false;
    }
    let Ok(value) = number.parse::<u32>() else { return false };
    match suffix {
        "" | "m" | "k" | "M" | "G" => value % 1000 != 0,
        "Ki" | "Mi" | "Gi" => value % 1024 != 0,
        _ => false,
    }
}

/// Value and scale of a number without a fraction that is far from a cap, as nearly all are.
fn plain(whole: &str, fraction: &str, base2: bool, exponent: i32) -> Option<(i128, i32)> {
    if !fraction.is_empty() || whole.len() > 15 || !(NANO..=60).contains(&exponent) {
        return None;
    }
    let number: u64 = whole.parse().ok()?;
    if base2 {
        let value = i128::from(number) << exponent;
        return (value <= MAX).then_some((value, 0));
    }
    (exponent <= 18).then_some((number.into(), exponent))
}

/// Splits into sign, digits before and after the point, and suffix.
fn split(text: &str) -> Result<(bool, &str, &str, &str), QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(digits(unsigned));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let exponent = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok((negative, whole, fraction, suffix))
}

/// Whether the suffix is of base 2, its exponent, and its format.
fn suffix_of(suffix: &str) -> Result<(bool, i32, Format), QuantityError> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok((false, *exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok((true, *exponent as i32, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent: i64 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    // Beyond these an amount is capped or rounded up to the smallest, whatever its digits.
    Ok((false, exponent.clamp(-1_000_000, 1_000_000) as i32, Format::DecimalExponent))
}

/// The magnitude of the number, as a value and a scale of at least [`NANO`].
fn scaled(
    whole: &str,
    fraction: &str,
    base2: bool,
    exponent: i32,
    format: Format,
) -> (i128, i32, Format) {
    let (factor, shift) = if base2 { (1i128 << exponent, 0) } else { (1, exponent) };
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    let scale = shift - (digits.len() - whole.len()) as i32;
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return (0, 0, format);
    }
    // Exact where a machine integer holds the digits that are written: no cap applies then.
    let written = digits.len() + scale.rem_euclid(3) as usize;
    if written <= 18 && (NANO..=18).contains(&scale) && !base2 {
        return (digits.parse().unwrap_or(0), scale, format);
    }
    let nanos = nanos(digits, scale, factor);
    let max = MAX * NANOS_PER_ONE;
    let less_than_one = nanos < NANOS_PER_ONE;
    let format = if base2 && less_than_one { Format::DecimalSi } else { format };
    (nanos.min(max), NANO, format)
}

/// `digits * 10^scale * factor` in billionths, rounded up; something larger than the largest
/// amount when it is larger.
fn nanos(digits: &str, scale: i32, factor: i128) -> i128 {
    /// As many decimal places as fit beside the largest factor.
    const PLACES: usize = 18;
    if let Some(nanos) = small_nanos(digits, scale, factor) {
        return nanos;
    }
    let point = digits.len() as i32 + scale;
    if point > 20 {
        return i128::MAX;
    }
    let (whole, fraction) = if scale >= 0 {
        (format!("{digits}{}", "0".repeat(scale as usize)), String::new())
    } else if point > 0 {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_owned(), fraction.to_owned())
    } else {
        let zeros = (-point).min(PLACES as i32) as usize;
        (String::new(), format!("{}{digits}", "0".repeat(zeros)))
    };
    let number = |digits: &str| digits.parse::<i128>().unwrap_or(0);
    let whole = match number(&whole) {
        whole if whole > MAX => return i128::MAX,
        whole => whole * factor,
    };
    if whole > MAX {
        return i128::MAX;
    }
    let (kept, cut) = fraction.split_at(fraction.len().min(PLACES));
    let fraction = number(&format!("{kept:0<PLACES$}"));
    let fraction = fraction + i128::from(cut.bytes().any(|digit| digit != b'0'));
    whole * NANOS_PER_ONE + div_away_from_zero(fraction * factor, NANOS_PER_ONE)
}

/// [`nanos`] of amounts that need no rounding and no care, as nearly all do.
fn small_nanos(digits: &str, scale: i32, factor: i128) -> Option<i128> {
    if !(NANO..=0).contains(&scale) || digits.len() > 18 {
        return None;
    }
    let number = i128::from(digits.parse::<u64>().ok()?);
    let nanos = number.checked_mul(factor)?.checked_mul(pow10(scale - NANO)?)?;
    (nanos <= MAX.checked_mul(NANOS_PER_ONE)?).then_some(nanos)
}

fn pow10(exponent: i32) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn div_away_from_zero(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}

impl fmt::Display for Quantity {
    /// The canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == 0 {
            return f.write_str("0");
        }
        let format = self.written_format();
        if format == Format::BinarySi {
            let mut value = i128::from(self.value());
            let mut power = 0;
            while value % 1024 == 0 && power < BINARY_SUFFIXES.len() {
                value /= 1024;
                power += 1;
            }
            let suffix = power.checked_sub(1).map_or("", |at| BINARY_SUFFIXES[at].0);
            return write!(f, "{value}{suffix}");
        }
        let exponent = self.scale.div_euclid(3) * 3;
        let zeros = "0".repeat((self.scale - exponent) as usize);
        let value = self.value;
        if format == Format::DecimalExponent {
            return match exponent {
                0 => write!(f, "{value}{zeros}"),
                exponent => write!(f, "{value}{zeros}e{exponent}"),
            };
        }
        match DECIMAL_SUFFIXES.iter().find(|(_, at)| *at == exponent) {
            Some((suffix, _)) => write!(f, "{value}{zeros}{suffix}"),
            None => {
                let zeros = "0".repeat((self.scale - 18).max(0) as usize);
                write!(f, "{value}{zeros}E")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = QuantityError;
    fn try_from(quantity: &ApiQuantity) -> Result<Self, QuantityError> {
        Self::parse(&quantity.0)
    }
}

impl From<Quantity> for ApiQuantity {
    fn from(quantity: Quantity) -> Self {
        ApiQuantity(quantity.to_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        (self.value, self.scale) == (other.value, other.scale)
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.scale == other.scale || self.value.signum() != other.value.signum() {
            return self.value.cmp(&other.value);
        }
        let difference = self.minus(other);
        difference.value.cmp(&0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        assert_eq!(Quantity::canonical(text).as_deref(), Ok(canonical), "{text}");
    }

    #[test]
    fn quantities_are_written_canonically() {
        check("0", "0");
        check("-0", "0");
        check("1000m", "1");
        check("0.5", "500m");
        check(".5", "500m");
        check("5.", "5");
        check("1500m", "1500m");
        check("0.1m", "100u");
        check("1.5Gi", "1536Mi");
        check("1024Mi", "1Gi");
        check("1024", "1024");
        check("1024Ki", "1Mi");
        check("1023Ki", "1023Ki");
        check("0.5Ki", "512");
        check("0.3Ki", "307200m");
        check("1000000k", "1G");
        check("1e3", "1e3");
        check("1E3", "1e3");
        check("1e1", "10");
        check("12e-1", "1200e-3");
        check("100E", "100E");
        check("-1.5", "-1500m");
        check("+2", "2");
        check("0.0001", "100u");
        check("0.1n", "1n");
        check("1e-20", "1e-9");
        check("1e100", "9223372036854775807");
        check("16Ei", "9223372036854775807");
        check("8Ei", "9223372036854775807");
        check("7Ei", "7Ei");
        check("009", "9");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "a", "1a", "1.2.3", " 1", "1 ", "1Kii", "--1", "1e", "Ki", ".", "1e1.5"] {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fractions_round_up() {
        let quantity = |text| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1500m").value(), 2);
        assert_eq!(quantity("-1500m").value(), -2);
        assert_eq!(quantity("100u").millis(), 1);
        assert_eq!(quantity("1Ki").millis(), 1_024_000);
        assert_eq!(quantity("100E").value(), i64::MAX);
    }

    #[test]
    fn sums_keep_the_format_of_the_first() {
        let quantity = |text| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1Gi").plus(&quantity("1Mi")).to_string(), "1025Mi");
        assert_eq!(quantity("0").plus(&quantity("1Mi")).to_string(), "1Mi");
        assert_eq!(quantity("1").minus(&quantity("100m")).to_string(), "900m");
        assert!(quantity("1Gi") > quantity("1G"));
        assert!(quantity("1000m") == quantity("1"));
    }

    /// The amount in nanos, by long multiplication of the text: the slow, obvious reading.
    fn nanos(whole: u32, fraction: &str, factor: i128) -> Option<i128> {
        let fraction: i128 = format!("{fraction:0<9}").parse().ok()?;
        Some((i128::from(whole) * 1_000_000_000 + fraction) * factor)
    }

    proptest! {
        #[test]
        fn parsing_agrees_with_long_multiplication(
            whole in any::<u32>(),
            fraction in "[0-9]{0,9}",
            suffix in 0usize..10,
        ) {
            let (suffix, factor) = [
                ("", 1), ("k", 1000), ("M", 1_000_000), ("Ki", 1024), ("Mi", 1 << 20),
                ("Gi", 1 << 30), ("e3", 1000), ("e0", 1), ("E1", 10), ("G", 1_000_000_000),
            ][suffix];
            let quantity = Quantity::parse(&format!("{whole}.{fraction}{suffix}")).unwrap();
            let nanos = nanos(whole, &fraction, factor).unwrap();
            if nanos / 1_000_000_000 < MAX {
                prop_assert_eq!(quantity.value * pow10(quantity.scale + 9).unwrap(), nanos);
            }
        }

        #[test]
        fn the_canonical_form_is_the_same_amount_and_stays(
            whole in any::<u32>(),
            fraction in "[0-9]{0,12}",
            suffix in "(|n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e-3|e2|E5)",
        ) {
            let quantity = Quantity::parse(&format!("{whole}.{fraction}{suffix}")).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
            prop_assert!(!quantity.to_string().contains('.'));
        }

        #[test]
        fn short_cuts_give_what_the_long_way_gives(
            whole in "[0-9]{1,16}",
            suffix in "(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-3|e2|E5)",
        ) {
            let text = format!("{whole}{suffix}");
            let (base2, exponent, format) = suffix_of(&suffix).unwrap();
            let (value, scale, format) = scaled(&whole, "", base2, exponent, format);
            let long = Quantity::normalized(value, scale, format);
            let parsed = Quantity::parse(&text).unwrap();
            prop_assert_eq!((parsed, parsed.format), (long, long.format));
            if is_canonical(&text) {
                prop_assert_eq!(long.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_judged(text in "\\PC{0,12}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any::<i64>(), b in any::<i64>(), m in -9i32..6, n in -9i32..6) {
            let wide = |value: i64, scale: i32| i128::from(value) * pow10(scale + 9).unwrap();
            prop_assert_eq!(
                Quantity::new(a, m).cmp(&Quantity::new(b, n)),
                wide(a, m).cmp(&wide(b, n))
            );
        }
    }
}
