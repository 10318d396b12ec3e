const form = document.getElementById("form"), picture = document.getElementById("picture")
const say = (status, error = "") => {
  document.getElementById("status").textContent = status
  document.getElementById("error").textContent = error
}
let models = []
const chosen = () => models.find(model => model.name === form.model.value)

const fill = (select, values) => select.replaceChildren(...values.map(value => new Option(value)))
const showSteps = () => {
  const kernel = chosen()?.samplers[form.sampler.value]
  form.steps.disabled = !kernel
  form.steps.value = kernel ? kernel.steps : ""
}
const showSamplers = () => {
  if (!chosen()) return
  fill(form.sampler, Object.keys(chosen().samplers))
  form.sampler.value = chosen().default_sampler
  form.class.max = chosen().classes - 1
  form.class.parentElement.hidden = !chosen().classes
  showSteps()
}
form.model.onchange = showSamplers
form.sampler.onchange = showSteps

// a key is kept as long as the tab is open; the field appears when the server asks for one
form.key.value = sessionStorage.getItem("key") ?? ""
const ask = async (path, options = {}) => {
  const headers = { ...options.headers, ...(form.key.value && { Authorization: `Bearer ${form.key.value}` }) }
  const answer = await fetch(path, { ...options, headers })
  if (answer.status === 401) form.key.parentElement.hidden = false
  return answer
}
form.key.onchange = () => {
  sessionStorage.setItem("key", form.key.value)
  load().catch(error => say("", String(error)))
}

const load = async () => {
  const answer = await ask("/models")
  if (!answer.ok) return say("", (await answer.json()).detail)
  say("Choose a model and draw.")
  models = (await answer.json()).models ?? []
  fill(form.model, models.map(model => model.name))
  if (!models.length) say("There is no model yet: POST /train makes one.")
  showSamplers()
}
form.onsubmit = async event => {
  event.preventDefault()
  const body = { model: form.model.value, sampler: form.sampler.value, num_images: Number(form.num_images.value) }
  if (form.class.value && chosen().classes) body.class = Number(form.class.value)
  if (form.steps.value) body.mcmc = { steps: Number(form.steps.value) }
  say("Drawing …")
  const begun = performance.now()
  const headers = { "Content-Type": "application/json", Accept: "image/png" }
  const text = JSON.stringify(body).slice(0, -1)
  const seed = form.seed.value ? `,"seed":${BigInt(form.seed.value)}` : "" // a seed has 63 bits, where numbers have 53
  const answer = await ask("/generate", { method: "POST", headers, body: `${text}${seed}}` })
  if (answer.status !== 200) {
    const problem = await answer.json()
    return say("", problem.detail ?? `The job goes on: ${problem.links?.self}`)
  }
  URL.revokeObjectURL(picture.src)
  picture.src = URL.createObjectURL(await answer.blob())
  picture.alt = `${body.num_images} images by ${body.model}`
  picture.hidden = false
  say(`Seed ${answer.headers.get("X-Ebbtide-Seed")}, ${((performance.now() - begun) / 1000).toFixed(2)} s`)
}
load().catch(error => say("", String(error)))
