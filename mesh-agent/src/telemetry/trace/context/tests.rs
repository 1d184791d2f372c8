use super::*;
use proptest::prelude::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn read(fields: &[(&'static str, &str)]) -> (Option<(u128, u64)>, Option<Decision>) {
    let found = extract(&headers(fields), true);
    (found.ids.map(|ids| (ids.trace.get(), ids.span.get())), found.decision)
}

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

#[test]
fn examples_of_the_specifications() {
    let ids = Some((TRACE, SPAN));
    let w3c = |value| read(&[("traceparent", value)]);
    assert_eq!(w3c("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), (ids, Some(Decision::Record)));
    assert_eq!(w3c("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), (ids, Some(Decision::Drop)));
    assert_eq!(w3c("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-what"), (ids, Some(Decision::Record)));
    let single = |value| read(&[("b3", value)]);
    let b3 = Some((0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7, 0xe457_b5a2_e4d8_6bd1));
    assert_eq!(
        single("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
        (b3, Some(Decision::Record))
    );
    assert_eq!(single("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"), (b3, None));
    assert_eq!(single("d"), (None, Some(Decision::Debug)));
    let multi = [("x-b3-traceid", "64fe8b2a57d3eff7"), ("x-b3-spanid", "e457b5a2e4d86bd1"), ("x-b3-sampled", "0")];
    assert_eq!(read(&multi), (Some((0x64fe_8b2a_57d3_eff7, 0xe457_b5a2_e4d8_6bd1)), Some(Decision::Drop)));
    assert_eq!(read(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]), (None, Some(Decision::Debug)));
}

#[test]
fn what_is_not_well_formed_counts_as_absent() {
    for value in [
        "",
        "00",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(read(&[("traceparent", value)]), (None, None), "{value}");
    }
    for value in ["2", "x-y-1", "80f198ee56343ba864fe8b2a57d3eff7", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-2"] {
        assert_eq!(read(&[("b3", value)]), (None, None), "{value}");
    }
    assert_eq!(read(&[("x-b3-traceid", "0000000000000000"), ("x-b3-spanid", "1")]), (None, None));
}

#[test]
fn who_is_believed_where_families_disagree() {
    let both = headers(&[
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-0"),
    ]);
    assert_eq!(extract(&both, true).decision, Some(Decision::Record));
    assert_eq!(extract(&both, false).decision, Some(Decision::Drop));
    // Unreadable is no opinion.
    let broken = headers(&[("traceparent", "junk"), ("b3", "0")]);
    assert_eq!(extract(&broken, true).decision, Some(Decision::Drop));
    assert_eq!(extract(&broken, true).formats, Formats { w3c: true, b3: false, b3_single: true });
}

#[test]
fn a_trace_that_is_not_recorded_needs_no_identifiers_in_b3() {
    let mut found = HeaderMap::new();
    let all = Formats { w3c: false, b3: true, b3_single: true };
    inject_dropped(&mut found, all, || unreachable!());
    assert_eq!((found["x-b3-sampled"].as_bytes(), found["b3"].as_bytes()), (&b"0"[..], &b"0"[..]));
    assert_eq!(extract(&found, true).decision, Some(Decision::Drop));
}

fn ids() -> impl Strategy<Value = Ids> {
    let trace = prop_oneof![any::<u128>(), any::<u64>().prop_map(u128::from)];
    (trace, any::<u64>())
        .prop_filter_map("zero", |(trace, span)| Some(Ids { trace: TraceId::new(trace)?, span: SpanId::new(span)? }))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        ids in ids(),
        parent in proptest::option::of(1..=u64::MAX),
        debug in any::<bool>(),
        family in 0..3,
    ) {
        let formats = Formats { w3c: family == 0, b3: family == 1, b3_single: family == 2 };
        let decision = if debug { Decision::Debug } else { Decision::Record };
        let mut found = HeaderMap::new();
        inject(&mut found, ids, parent.and_then(SpanId::new), decision, formats);
        let read = extract(&found, true);
        prop_assert_eq!(read.ids, Some(ids));
        prop_assert_eq!(read.formats, formats);
        // W3C has no debug.
        let expected = if formats.w3c { Decision::Record } else { decision };
        prop_assert_eq!(read.decision, Some(expected));
    }

    #[test]
    fn any_bytes_are_read_without_harm(
        value in proptest::collection::vec(any::<u8>(), 0..80),
        dashed in "[0-9a-f-]{0,70}",
    ) {
        for bytes in [&value[..], dashed.as_bytes()] {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { continue };
            for name in [TRACEPARENT, B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS] {
                let found = HeaderMap::from_iter([(name, value.clone())]);
                prop_assert_eq!(extract(&found, true).ids, extract(&found, false).ids);
            }
        }
    }
}
