//! Distinguished names as RFC 4514 writes them, and as GnuTLS does: the last part first. No I/O.

/// The tags of ASN.1 that occur in names.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const UNIVERSAL: u8 = 0x1c;
const BMP: u8 = 0x1e;
const NUMERIC: u8 = 0x12;

/// What GnuTLS calls the kinds of parts.
const KEYWORDS: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "surName"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "givenName"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAIL"),
    ("1.2.840.113549.1.9.7", "1.2.840.113549.1.9.7"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionOfIncorporationLocalityName"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionOfIncorporationStateOrProvinceName"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionOfIncorporationCountryName"),
];

/// A name from its encoding (DER) as text; none: it is no name.
#[must_use]
pub fn rfc4514(der: &[u8]) -> Option<String> {
    let mut rest = der;
    let mut parts = Vec::new();
    let mut sequence = element(&mut rest, SEQUENCE)?;
    while !sequence.is_empty() {
        let mut set = element(&mut sequence, SET)?;
        let mut values = Vec::new();
        while !set.is_empty() {
            let mut pair = element(&mut set, SEQUENCE)?;
            let kind = dotted(element(&mut pair, OID)?)?;
            values.push(attribute(&kind, pair)?);
        }
        parts.push(values.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// One part: its kind and its value.
fn attribute(kind: &str, encoded: &[u8]) -> Option<String> {
    let keyword = KEYWORDS.iter().find(|(number, _)| *number == kind).map(|(_, keyword)| *keyword);
    let text = keyword.and_then(|_| text(encoded));
    match (keyword, text) {
        (Some(keyword), Some(text)) => Some(format!("{keyword}={}", escaped(&text))),
        // What has no text is written as it is encoded.
        _ => {
            let hex = encoded.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            Some(format!("{}=#{hex}", keyword.unwrap_or(kind)))
        }
    }
}

fn text(encoded: &[u8]) -> Option<String> {
    let (tag, content) = any(&mut &*encoded)?;
    match tag {
        UTF8 | PRINTABLE | IA5 | NUMERIC => String::from_utf8(content.to_vec()).ok(),
        TELETEX => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        BMP => {
            let units = content.chunks(2).map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
            String::from_utf16(&units.collect::<Option<Vec<u16>>>()?).ok()
        }
        UNIVERSAL => content.chunks(4).map(|word| char::from_u32(u32::from_be_bytes(word.try_into().ok()?))).collect(),
        _ => None,
    }
}

/// RFC 4514, 2.4.
fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::new();
    for (position, letter) in text.chars().enumerate() {
        let special = matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (letter == '#' && position == 0)
            || (letter == ' ' && (position == 0 || position == last));
        if letter == '\0' {
            out.push_str("\\00");
        } else {
            if special {
                out.push('\\');
            }
            out.push(letter);
        }
    }
    out
}

/// An object identifier as numbers with dots.
fn dotted(bytes: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in bytes {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let first = *numbers.first()?;
    let top = (first / 40).min(2);
    let start = format!("{top}.{}", first - top * 40);
    Some(numbers[1..].iter().fold(start, |text, number| format!("{text}.{number}")))
}

fn element<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    any(rest).filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
}

/// Takes an element off the front: its tag and its content.
fn any<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, after) = rest.split_first()?;
    let (&short, after) = after.split_first()?;
    let (length, after) = if short < 0x80 {
        (usize::from(short), after)
    } else {
        let (bytes, after) = after.split_at_checked(usize::from(short & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), after)
    };
    let (content, after) = after.split_at_checked(length)?;
    *rest = after;
    Some((tag, content))
}

#[cfg(test)]
mod tests {
    use openssl::nid::Nid;
    use openssl::x509::X509NameBuilder;

    use super::*;

    fn name(parts: &[(Nid, &str)]) -> String {
        let mut name = X509NameBuilder::new().unwrap();
        parts.iter().for_each(|(kind, text)| name.append_entry_by_nid(*kind, text).unwrap());
        rfc4514(&name.build().to_der().unwrap()).unwrap()
    }

    #[test]
    fn the_last_part_stands_first() {
        let parts = [(Nid::COUNTRYNAME, "DE"), (Nid::ORGANIZATIONNAME, "Häuser"), (Nid::COMMONNAME, "x")];
        assert_eq!(name(&parts), "CN=x,O=Häuser,C=DE");
        assert_eq!(name(&[]), "");
    }

    #[test]
    fn special_letters_are_escaped() {
        assert_eq!(name(&[(Nid::COMMONNAME, " #a,b+c\"d\\e<f>g;h= ")]), "CN=\\ #a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h=\\ ");
        assert_eq!(name(&[(Nid::COMMONNAME, "#1")]), "CN=\\#1");
    }

    #[test]
    fn what_has_no_keyword_is_written_as_it_is_encoded() {
        assert_eq!(name(&[(Nid::PKCS9_UNSTRUCTUREDNAME, "ab")]), "1.2.840.113549.1.9.2=#0c026162");
        assert_eq!(name(&[(Nid::PKCS9_EMAILADDRESS, "a@b")]), "EMAIL=a@b");
    }

    #[test]
    fn bytes_that_are_no_name_give_nothing() {
        for bytes in [&b""[..], b"\x30", b"\x30\x05", b"\x31\x00", b"\x30\x02\x31\x05", b"\x30\x84\xff\xff\xff\xff"] {
            assert_eq!(rfc4514(bytes), None, "{bytes:?}");
        }
    }
}
