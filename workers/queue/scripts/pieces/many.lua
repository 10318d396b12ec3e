-- Runs a command with many words: `many(words, 'ZADD', key)`. It is split, as Lua passes at most a few thousand arguments to a function.
local function many(words, ...)
    for first = 1, #words, 1000 do
        local command = {...}
        for at = first, math.min(first + 999, #words) do table.insert(command, words[at]) end
        redis.call(unpack(command))
    end
end
