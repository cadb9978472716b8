//! What the fuzz target `store_log` does, on some thousand inputs that are the same each time.

use rk_store::fuzzing;

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

#[test]
fn random_bytes_are_no_log() {
    for seed in 0..5000 {
        let mut dice = Dice(seed);
        let length = dice.below(600);
        assert!(!fuzzing::segment(&dice.bytes(length)));
    }
}

#[test]
fn a_damaged_log_never_yields_what_was_not_written() {
    let mut noticed = 0;
    for seed in 0..8000 {
        let mut dice = Dice(seed);
        let batches = dice.below(60);
        let damages = 4 * (1 + dice.below(3));
        let mut script = dice.bytes(batches.max(damages));
        let mut damage = vec![0; script.len()];
        // Changes of nothing, but for the last few.
        let at = damage.len() - damages as usize;
        damage[at..].copy_from_slice(&dice.bytes(damages));
        script.append(&mut damage);
        noticed += u32::from(fuzzing::damaged_segment(&script));
    }
    // The rest took the end of the log away and left no trace of it.
    assert!(noticed > 7900, "{noticed}");
}

#[test]
fn the_segments_that_the_fuzzer_begins_with_are_judged_rightly() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus-seeds/store_log");
    let broken = ["cut_header", "cut_frame", "flipped", "wrong_number", "zeros"];
    for file in std::fs::read_dir(folder).expect("the seeds are there") {
        let path = file.expect("a file").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).expect("it can be read");
        if name.starts_with("damage") {
            fuzzing::damaged_segment(&bytes);
        } else {
            assert_eq!(fuzzing::segment(&bytes), !broken.contains(&name.as_str()), "{name}");
        }
    }
}
