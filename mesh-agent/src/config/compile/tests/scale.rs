//! Cost of one change, printed (`--nocapture`), and what a thousand broken objects do to healthy ones.

use super::*;
use crate::config::resource::Object;
use std::time::Instant;

fn world(services: usize) -> Vec<Arc<Resource>> {
    let mut yaml = String::new();
    for n in 0..services {
        let (a, b) = (n / 250, n % 250 + 1);
        yaml += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\nspec: {{clusterIP: 10.96.{a}.{b}, selector: {{app: s{n}}}, ports: [{{name: grpc, port: 80}}]}}\n"
        );
        for p in 0..3 {
            yaml += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: s{n}-{p}, namespace: shop, labels: {{app: s{n}}}}}\nstatus: {{podIP: 10.{p}.{a}.{b}}}\n"
            );
        }
    }
    resources(&yaml)
}

#[test]
fn one_change_touches_one_service_whatever_their_number() {
    for services in [10, 1000] {
        let mut compiler = Compiler::new(settings());
        let world = world(services);
        let start = Instant::now();
        compiler.apply(Changes { upserts: world.clone(), ..Changes::default() });
        let full = start.elapsed();
        let mut pod = (*world[1]).clone();
        let Object::Pod(object) = &mut pod.object else { panic!("not a pod") };
        object.status.pod_ip = "10.9.9.9".into();
        let update = compiler.apply(Changes { upserts: vec![Arc::new(pod)], ..Changes::default() });
        assert_eq!((update.touched_services.len(), update.touched_workloads.len()), (1, 1));
        println!("{services} services: full {full:?}");
    }
    let services = 10_000;
    let mut compiler = Compiler::new(settings());
    let world = world(services);
    compiler.apply(Changes { upserts: world.clone(), ..Changes::default() });
    let rounds = 1000u32;
    let start = Instant::now();
    for n in 0..rounds {
        let mut pod = (*world[1 + 4 * (n as usize % services)]).clone();
        let Object::Pod(object) = &mut pod.object else { panic!("not a pod") };
        object.status.pod_ip = format!("10.8.{}.{}", n / 250, n % 250 + 1).into();
        let update = compiler.apply(Changes { upserts: vec![Arc::new(pod)], ..Changes::default() });
        assert_eq!(update.touched_services.len(), 1);
    }
    println!("{services} services: one endpoint change {:?}", start.elapsed() / rounds);
}

/// Breaks a text at a place: cuts it, doubles a piece, or puts something odd in.
fn mutate(text: &str, rng: &mut fastrand::Rng) -> String {
    const ODD: &[&str] =
        &["{", "]", ": :", "\t", "-1", "null", "99999999999", "\u{fffd}", "[[", "&a *a", "!!x", "'", "yes", "0x1"];
    let mut at = rng.usize(..text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let odd = ODD[rng.usize(..ODD.len())];
    match rng.u8(..3) {
        0 => format!("{}{odd}", &text[..at]),
        1 => format!("{}{odd}{}", &text[..at], &text[at..]),
        _ => format!("{}{}", &text[at..], &text[..at]),
    }
}

#[test]
fn a_thousand_broken_objects_leave_healthy_ones_alone() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (healthy, _) = compiled(SHOP);
    let templates: Vec<String> = SHOP
        .replace("shop", "other")
        .replace("10.96.0.1", "10.97.0.1")
        .replace("fd00::1", "fd01::1")
        .replace("10.0.0.", "10.1.0.")
        .replace("fd00:1::1", "fd01:1::1")
        .split("---\n")
        .map(str::to_owned)
        .collect();
    let mut texts = Vec::new();
    for n in 0..1000 {
        let template = &templates[n % templates.len()];
        let text = mutate(template, &mut rng);
        texts.push(text);
    }
    let mut named = 0;
    for text in &texts {
        let parsed = parse(&Path::new("broken.yaml").into(), text);
        named += usize::from(!parsed.diagnostics.is_empty());
        assert!(
            !parsed.diagnostics.is_empty() || !parsed.resources.is_empty() || text.trim().is_empty(),
            "neither read nor named: {text:?}"
        );
        assert!(parsed.diagnostics.iter().all(|d| d.line.is_some() && !d.fix.is_empty()));
    }
    assert!(named > 300, "mutations must break something: {named}");
    let file = format!("{}\n---\n{SHOP}", texts.join("\n---\n"));
    let parsed = parse(&Path::new("t.yaml").into(), &file);
    let own = |r: &Resource| &*r.key.namespace == "shop" || matches!(&r.object, Object::Node(_));
    assert!(parsed.resources.iter().filter(|r| own(r)).count() >= 4);
    let (snapshot, _) = compile(settings(), parsed.resources.into_iter().map(Arc::new));
    assert_eq!(snapshot.service(&ServiceName::new("shop", "cart")), healthy.service(&ServiceName::new("shop", "cart")));
}
