// Node's own fetch, in the style of k6: several requests at once over kept connections. Arguments: URL and body.
const [url, body] = process.argv.slice(2)
const answers = await Promise.all([1, 2, 3].map(() => fetch(url, { method: "POST", body })))
for (const answer of answers) console.log(answer.status, await answer.text())
