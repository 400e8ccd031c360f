//! Whether a blob is worth compressing: what is compressed or encrypted already (archives, pictures, films) would cost
//! as much time as text and give nothing.

/// A smaller blob is compressed whatever it looks like.
const SMALLEST: usize = 32 << 10;
/// Bytes of one sample.
const SAMPLE: usize = 4 << 10;
/// Samples taken of a blob, evenly spread.
const SAMPLES: usize = 5;
/// Of `SAMPLE` random bytes the sum of the squares of how often each value occurs is SAMPLE + SAMPLE² / 256 = 69,632, give
/// or take about 2,100. Text has ten times that; machine code and the like five. Anything within an eighth is taken for random.
const EVEN: u32 = 78_000;

/// Whether all samples of the blob have their byte values spread as evenly as chance spreads them.
///
/// It can be wrong about a blob whose bytes are even and which repeats itself all the same. Such a blob is then stored as
/// it is: whole, and larger than it need be.
pub(crate) fn is_incompressible(data: &[u8]) -> bool {
    if data.len() < SMALLEST {
        return false;
    }
    let step = (data.len() - SAMPLE) / (SAMPLES - 1);
    (0..SAMPLES).all(|number| data.get(number * step..number * step + SAMPLE).is_some_and(is_even))
}

fn is_even(sample: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    counts.iter().map(|count| count * count).sum::<u32>() < EVEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn random_bytes_are_found_out() {
        for length in [SMALLEST, SMALLEST + 1, 100_000, 1 << 20] {
            assert!(is_incompressible(&random(length)), "{length}");
        }
    }

    #[test]
    fn whatever_might_get_smaller_is_compressed() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
        let base64: Vec<u8> = random(1 << 20).iter().map(|byte| b'A' + byte % 64).collect();
        let mut island = random(1 << 20);
        island[500_000..600_000].fill(0);
        for data in [text, base64, island, vec![0; 1 << 20], random(SMALLEST - 1)] {
            assert!(!is_incompressible(&data));
        }
    }
}
